"""The rows of an output while they grow and afterwards, in a SQLite file beside it.

SQLite gives what a run that nobody watches needs: a lock that the kernel holds and that dies with its
process, rows that survive a power cut, and look-ups in bounded memory. The output is written from the rows.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import NamedTuple, Self

from chexscore.errors import LockedError, OutputError, UsageError
from chexscore.predictions import Prediction, Status, decode_scores, encode_scores

__all__ = ["Fingerprint", "Store", "store_path"]

COMMIT_INTERVAL_S = 1.0
"""What a power cut can cost."""

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT)",
    """CREATE TABLE IF NOT EXISTS rows (run INTEGER, position INTEGER, path BLOB, size INTEGER, mtime INTEGER,
    status TEXT, scores TEXT, tags TEXT, note TEXT, PRIMARY KEY (run, position)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS rows_by_path ON rows (path, run)",
)


class Fingerprint(NamedTuple):
    """What tells a changed file from an unchanged one: bytes, and time of modification in nanoseconds."""

    size: int
    mtime: int


class Store:
    """The rows of one output; opened, it is locked for every other process.

    Each run writes its rows under a number of its own and takes over those of earlier runs that still hold;
    `publish` makes the run's rows the only ones. A run that stops before that leaves its rows to the next.

    Args:
        output: the file that the rows are for.
        labels: of the model.
        settings: whatever changes scores, in words; rows made under other settings are never taken over.
        resume: take over what earlier runs left.
        overwrite: begin anew in spite of an output, or rows, that are there.
        lock_wait: seconds to wait for another process that holds the lock.

    Raises:
        UsageError: the output or rows are there and neither flag is given; there is nothing to resume beside
            an output; the settings differ; or the place cannot be written.
        LockedError: another process works on this output.
    """

    def __init__(
        self,
        output: str,
        labels: tuple[str, ...],
        settings: Mapping[str, str],
        *,
        resume: bool = False,
        overwrite: bool = False,
        lock_wait: float = 0.0,
    ) -> None:
        self.output, self.labels = output, labels
        self._path = store_path(output)
        if os.path.exists(output) and not (resume or overwrite):
            raise UsageError(
                f"{output} exists; --resume scores what is new or has changed, --overwrite begins anew."
            )
        if os.path.exists(output) and resume and not os.path.exists(self._path):
            raise UsageError(
                f"{self._path} is not there, so {output} cannot be resumed; --overwrite begins anew."
            )
        self._open(lock_wait, overwrite=overwrite)
        try:
            self._begin(settings, resume=resume, overwrite=overwrite)
        except BaseException:
            self._database.close()
            raise
        self._committed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Keeps the rows, whatever ended the run."""
        with closing(self._database):
            if self._database.in_transaction:
                self._database.commit()

    def _open(self, lock_wait: float, *, overwrite: bool) -> None:
        try:
            self._database = sqlite3.connect(self._path, timeout=lock_wait, isolation_level=None)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("BEGIN EXCLUSIVE")
            for statement in SCHEMA:
                self._database.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise LockedError(
                    f"another run is writing {self.output}; --lock-wait 5m would wait."
                ) from error
            raise UsageError(f"{self.output} cannot be written: {error}.") from error
        except sqlite3.DatabaseError as error:
            if overwrite:
                os.unlink(self._path)
                self._open(lock_wait, overwrite=False)
                return
            raise UsageError(f"{self._path} is damaged ({error}); --overwrite begins anew.") from error

    def _begin(self, settings: Mapping[str, str], *, resume: bool, overwrite: bool) -> None:
        """Checks what earlier runs left, and takes the number of this run."""
        if overwrite:
            self._database.execute("DELETE FROM rows")
            self._database.execute("DELETE FROM settings")
        last, rows = self._database.execute("SELECT ifnull(max(run), 0), count(*) FROM rows").fetchone()
        if rows and not resume:
            raise UsageError(
                f"a run that was stopped left {rows} rows for {self.output}; --resume goes on with them, "
                "--overwrite begins anew."
            )
        earlier = dict(self._database.execute("SELECT name, value FROM settings"))
        changed = [name for name in settings if rows and earlier.get(name) != settings[name]]
        if changed:
            differences = ", ".join(
                f"{name} {earlier.get(name)} then and {settings[name]} now" for name in changed
            )
            raise UsageError(
                f"{self.output} was made with other settings, so it cannot be resumed ({differences}); "
                "--overwrite begins anew."
            )
        self._database.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", settings.items())
        self._run, self._next = last + 1, 0

    def place(self) -> int:
        """Takes the position of the next row."""
        self._next += 1
        return self._next

    def earlier(self, path: str, fingerprint: Fingerprint) -> Prediction | None:
        """The scores that an earlier run found for this file, if it has not changed since.

        Failures are not handed out: what made an image fail may be gone although the file is the same.
        """
        row = self._database.execute(
            "SELECT status, scores, tags, note FROM rows WHERE path = ? AND run < ? AND size = ? "
            "AND mtime = ? AND status = ? ORDER BY run DESC LIMIT 1",
            (os.fsencode(path), self._run, *fingerprint, Status.OK.value),
        ).fetchone()
        return None if row is None else self._prediction(path, *row)

    def add(self, position: int, prediction: Prediction, fingerprint: Fingerprint | None) -> None:
        """Keeps a row; about once a second everything so far is made safe.

        Raises:
            OutputError: the disk is full or gone.
        """
        scores = encode_scores(prediction.scores, self.labels)
        row = (prediction.status.value, ",".join(scores), json.dumps(dict(prediction.tags)), prediction.note)
        size, mtime = fingerprint or (None, None)
        try:
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
            self._database.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._run, position, os.fsencode(prediction.path), size, mtime, *row),
            )
            if time.monotonic() - self._committed >= COMMIT_INTERVAL_S:
                self._database.execute("COMMIT")
                self._committed = time.monotonic()
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"{self.output}: rows cannot be kept ({error}); what was scored before stays for --resume."
            ) from error

    def rows(self) -> Iterator[Prediction]:
        """This run's rows, in order."""
        found = self._database.execute(
            "SELECT path, status, scores, tags, note FROM rows WHERE run = ? ORDER BY position", (self._run,)
        )
        for path, *row in found:
            yield self._prediction(os.fsdecode(path), *row)

    def settle(self) -> int:
        """Forgets the rows of earlier runs, once this run's stand in the output.

        Returns:
            How many of them were for files that this run did not find.
        """
        if self._database.in_transaction:
            self._database.execute("COMMIT")
        (gone,) = self._database.execute(
            "SELECT count(DISTINCT path) FROM rows WHERE run < :run AND path NOT IN "
            "(SELECT path FROM rows WHERE run = :run)",
            {"run": self._run},
        ).fetchone()
        self._database.execute("DELETE FROM rows WHERE run < ?", (self._run,))
        return int(gone)

    def _prediction(self, path: str, status: str, scores: str, tags: str, note: str) -> Prediction:
        numbers = decode_scores(scores.split(","), self.labels) if status == Status.OK else {}
        return Prediction(path, Status(status), numbers, note, json.loads(tags))


def store_path(output: str) -> str:
    """Where the rows of an output are kept."""
    return f"{output}.state"
