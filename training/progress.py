"""A bar on a terminal for work that takes minutes; nothing where there is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["bar", "on_terminal"]


def on_terminal() -> bool:
    """Whether somebody watches standard error."""
    return Console(stderr=True).is_terminal


@contextmanager
def bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Shows how far some work is, with the time left.

    Args:
        what: a word or two in front of the bar.
        total: steps of the work.
        done: of those, before this call.

    Yields:
        A function to call with the number of steps done so far, and a few words on how it goes.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total, completed=done, note="")
        yield lambda completed, note: progress.update(task, completed=completed, note=note)
