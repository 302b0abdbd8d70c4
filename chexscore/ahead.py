"""Work done ahead of its use: in threads, in order, no further ahead than asked."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["load_ahead"]

Loaded = TypeVar("Loaded")


def load_ahead(
    paths: Iterable[str], load: Callable[[str], Loaded], *, workers: int, ahead: int
) -> Iterator[tuple[str, Loaded]]:
    """Loads files in threads while the caller works on earlier ones.

    Args:
        paths: taken from only as far as they are loaded ahead.
        load: called with a path, in a thread; what it raises is raised here, in the path's turn.
        workers: threads, at least 1.
        ahead: files that are loaded or being loaded while the caller works, at most.

    Yields:
        Each path with what `load` returned, in the order of the paths.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="chexscore-load")
    queue: deque[tuple[str, Future[Loaded]]] = deque()
    try:
        for path in paths:
            queue.append((path, pool.submit(load, path)))
            if len(queue) > ahead:
                first, result = queue.popleft()
                yield first, result.result()
        while queue:
            first, result = queue.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)
