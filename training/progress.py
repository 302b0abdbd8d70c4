"""Work that takes minutes: a bar where there is a terminal, and signals that wait for a step's end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.signals import held

__all__ = ["bar", "on_terminal"]


def on_terminal() -> bool:
    """Whether somebody watches standard error."""
    return Console(stderr=True).is_terminal


@contextmanager
def bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Shows how far some work is, with the time left, and holds signals back between two steps.

    Args:
        what: a word or two in front of the bar.
        total: steps of the work.
        done: of those, before this call.

    Yields:
        A function to call with the number of steps done so far, and a few words on how it goes; a signal
        that came does there, or at the end, what it does.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with held() as look, shown as progress:
        task = progress.add_task(what, total=total, completed=done, note="")

        def show(completed: int, note: str) -> None:
            progress.update(task, completed=completed, note=note)
            look()

        yield show
