"""Work done ahead of its use: in threads, in order, no further ahead than asked."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from chexscore.errors import ChexscoreError

__all__ = ["work_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(
    items: Iterable[Item], work: Callable[[Item], Result], *, workers: int, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Works on items in threads while the caller works on what became of earlier ones.

    Args:
        items: taken from only as far as they are worked on ahead.
        work: called with an item, in a thread; what it raises is raised here, in the item's turn.
        workers: threads, at least 1.
        ahead: items that are done or being worked on while the caller works, at most.

    Yields:
        Each item with what `work` returned, in the order of the items; what is done when an item comes does
        not wait for later ones. Who leaves early leaves behind what is being worked on, and no more is begun.

    Raises:
        ChexscoreError: no thread can be started.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="chexscore-ahead")
    queue: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            try:
                queue.append((item, pool.submit(work, item)))
            except RuntimeError as error:
                if "new thread" not in str(error):
                    raise
                raise ChexscoreError(f"{error}: there are too many (ulimit -u, TasksMax).") from error
            while queue and (len(queue) > ahead or queue[0][1].done()):
                first, result = queue.popleft()
                yield first, result.result()
        while queue:
            first, result = queue.popleft()
            yield first, result.result()
    finally:
        # Nothing is waited for: garbage collection may come to this in any thread. One that works would wait
        # for itself, and one that only begins for a lock of threading's that it holds.
        pool.shutdown(wait=False, cancel_futures=True)
