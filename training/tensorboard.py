"""The history of a run as TensorBoard shows it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chexscore.errors import UsageError

__all__ = ["Logs"]


class Logs:
    """Writes one point of each curve an epoch.

    Raises:
        UsageError: the extra is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter  # noqa: PLC0415, an extra
        except ImportError as error:
            raise UsageError(
                "tensorboard = true needs the extra: pip install 'chexscore[tensorboard]'."
            ) from error
        self._open, self._folder = SummaryWriter, str(folder)
        self._writer: Any = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Takes a line of history.csv."""
        self._writer = self._writer or self._open(self._folder)  # which makes the folder
        for name, value in row.items():
            if name not in ("epoch", "commit"):
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._writer:
            self._writer.close()
