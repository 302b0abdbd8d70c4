"""The rows of an output while they grow and afterwards, in a SQLite file beside it.

SQLite gives what a run that nobody watches needs: rows that survive a power cut, and look-ups in bounded
memory. The output is written from the rows.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple, Self

from chexscore.errors import OutputError, UsageError
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

FORGET = "DELETE FROM rows WHERE path = ? AND run < ?"


class Fingerprint(NamedTuple):
    """What tells a changed file from an unchanged one: bytes, and time of modification in nanoseconds."""

    size: int
    mtime: int


class Store:
    """The rows of one output; to be opened under its lock (`chexscore.lock`).

    Each run writes its rows under a number of its own and takes over those of earlier runs that still hold;
    `settle` makes the run's rows the only ones. A run that stops before that leaves its rows to the next.

    Args:
        output: the file that the rows are for.
        labels: of the model.
        settings: whatever changes scores, in words; rows made under other settings are never taken over.
        resume: take over what earlier runs left.
        overwrite: begin anew in spite of an output, or rows, that are there.

    Raises:
        UsageError: the output or rows are there and neither flag is given; there is nothing to resume beside
            an output; the settings differ; or what is there is no store.
        OutputError: here and in every method, when the disk is full or gone, or the store damaged.
    """

    def __init__(
        self,
        output: str,
        labels: tuple[str, ...],
        settings: Mapping[str, str],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.output, self.labels = output, labels
        path = store_path(output)
        if os.path.exists(output) and not (resume or overwrite):
            raise UsageError(
                f"{output} exists; --resume scores what is new or has changed, --overwrite begins anew."
            )
        if os.path.exists(output) and resume and not os.path.exists(path):
            raise UsageError(f"{path} is not there, so {output} cannot be resumed; --overwrite begins anew.")
        if overwrite:
            with suppress(FileNotFoundError):
                os.unlink(path)
        with self._guarded():
            self._database = sqlite3.connect(path, isolation_level=None)
        try:
            with self._guarded():
                for statement in SCHEMA:
                    self._database.execute(statement)
                self._begin(settings, resume=resume)
        except BaseException:
            self._database.close()
            raise
        self._committed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Keeps the rows, whatever ended the run."""
        with closing(self._database), suppress(OutputError):
            self.commit()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"{self.output}: its rows cannot be kept or read ({error}); once there is room, --resume "
                "goes on with what was kept."
            ) from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:  # the latter from what a row holds
            raise OutputError(
                f"{store_path(self.output)} is damaged ({error}); --overwrite begins anew."
            ) from error

    def _begin(self, settings: Mapping[str, str], *, resume: bool) -> None:
        """Checks what earlier runs left, and takes the number of this run."""
        query = "SELECT ifnull(max(run), 0), count(DISTINCT path) FROM rows"
        last, self.left_before = self._database.execute(query).fetchone()
        if self.left_before and not resume:
            raise UsageError(
                f"an earlier run left the rows of {self.left_before} images for {self.output}; --resume goes "
                "on with them, --overwrite begins anew."
            )
        earlier = dict(self._database.execute("SELECT name, value FROM settings"))
        changed = [name for name in settings if self.left_before and earlier.get(name) != settings[name]]
        if changed:
            differences = ", ".join(f"{x} {earlier.get(x)} then and {settings[x]} now" for x in changed)
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
        with self._guarded():
            row = self._database.execute(
                "SELECT status, scores, tags, note FROM rows WHERE path = ? AND run < ? AND size = ? "
                "AND mtime = ? AND status = ? ORDER BY run DESC LIMIT 1",
                (os.fsencode(path), self._run, *fingerprint, Status.OK.value),
            ).fetchone()
            return None if row is None else self._prediction(path, *row)

    def forget(self, path: str) -> None:
        """Takes an earlier row of this path out, so that it does not count as one whose file is gone."""
        with self._guarded():
            self._database.execute(FORGET, (os.fsencode(path), self._run))

    def add(self, position: int, prediction: Prediction, fingerprint: Fingerprint | None) -> None:
        """Keeps a row, in place of earlier ones of its path; once a second everything so far is made safe."""
        scores = ",".join(encode_scores(prediction.scores, self.labels))
        size, mtime = fingerprint or (None, None)
        path, tags = os.fsencode(prediction.path), json.dumps(dict(prediction.tags))
        with self._guarded():
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
            self._database.execute(FORGET, (path, self._run))
            self._database.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._run,
                    position,
                    path,
                    size,
                    mtime,
                    prediction.status.value,
                    scores,
                    tags,
                    prediction.note,
                ),
            )
        if time.monotonic() - self._committed >= COMMIT_INTERVAL_S:
            self.commit()

    def commit(self) -> None:
        """Makes everything so far safe."""
        with self._guarded():
            if self._database.in_transaction:
                self._database.execute("COMMIT")
        self._committed = time.monotonic()

    def rows(self) -> Iterator[Prediction]:
        """This run's rows, in order."""
        query = "SELECT path, status, scores, tags, note FROM rows WHERE run = ? ORDER BY position"
        with self._guarded():
            for path, *row in self._database.execute(query, (self._run,)):
                yield self._prediction(os.fsdecode(path), *row)

    def count(self) -> int:
        """How many rows this run has kept."""
        with self._guarded():
            query = "SELECT count(*) FROM rows WHERE run = ?"
            return int(self._database.execute(query, (self._run,)).fetchone()[0])

    def settle(self) -> int:
        """Forgets what is left of earlier runs, once this run's rows stand in the output.

        Returns:
            How many scored images they were of, whose files this run did not find.
        """
        with self._guarded():
            query = "SELECT count(DISTINCT path) FROM rows WHERE run < ? AND status = ?"
            gone = int(self._database.execute(query, (self._run, Status.OK.value)).fetchone()[0])
            self._database.execute("DELETE FROM rows WHERE run < ?", (self._run,))
        return gone

    def _prediction(self, path: str, status: str, scores: str, tags: str, note: str) -> Prediction:
        numbers = decode_scores(scores.split(","), self.labels) if status == Status.OK else {}
        return Prediction(path, Status(status), numbers, note, json.loads(tags))


def store_path(output: str) -> str:
    """Where the rows of an output are kept."""
    return f"{output}.state"
