"""The rows of an output while they grow and afterwards, in a SQLite file beside it.

SQLite gives what a run that nobody watches needs: rows that survive a power cut, and look-ups in bounded
memory. The output is written from the rows. The tables are in `chexscore.database`.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Self

from chexscore.beside import cannot_write, store_path
from chexscore.database import Row, checked, checksum, made_in, open_database
from chexscore.errors import OutputError, UsageError
from chexscore.fingerprints import Fingerprint
from chexscore.predictions import Prediction, Status, decode_scores, encode_scores

__all__ = ["Store", "can_be_resumed", "check_settings"]

COMMIT_INTERVAL_S = 1.0
"""What a power cut can cost."""

FULL, FAILED, HELD = "SQLITE_FULL", "SQLITE_IOERR", ("SQLITE_BUSY", "SQLITE_LOCKED")
NOT_OURS = ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")
"""SQLite's names of errors, or how they begin."""


class Store:
    """The rows of one output; to be opened under its lock (`chexscore.lock`).

    Each run writes its rows under a number of its own and takes over those of earlier runs that still hold;
    `settle` makes the run's rows the only ones. A run that stops before that leaves its rows to the next.
    They are tentative until it meets an image that was scored before: another run may take them over, but
    nobody misses them.

    Args:
        output: the file that the rows are for.
        labels: of the model.
        settings: whatever changes scores, in words; rows made under other settings are never taken over.
        resume: take over what earlier runs left.
        overwrite: begin anew in spite of an output, or rows, that are there. Earlier rows go for good with
            the first image that is there, or with `settle`: inputs that are not there tonight cost nothing.

    Attributes:
        left_before: images that earlier runs left rows of.
        met_before: whether one of these images was there for this run, tentative rows aside.

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
        self._overwrites, self._has_kept = overwrite, False
        path = store_path(output)
        if os.path.exists(output) and not (resume or overwrite):
            raise UsageError(
                f"{output} exists; --resume scores what is new or has changed, --overwrite begins anew."
            )
        # An empty one is what an --overwrite leaves that found no room on the disk.
        if os.path.exists(output) and resume and not (os.path.exists(path) and os.path.getsize(path)):
            raise UsageError(
                f"{path} is not there, or empty, so {output} cannot be resumed; --overwrite begins anew."
            )
        with self._guarded():
            self._database = open_database(path, discard_damaged=overwrite)
        try:
            with self._guarded():
                self._begin(settings, resume=resume, overwrite=overwrite)
        except BaseException:
            self._database.close()
            raise
        self.met_before = False
        self._may_commit = not overwrite
        self._has_earlier = bool(self.left_before) and not overwrite
        self._committed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Keeps the rows, whatever ended the run."""
        with closing(self._database), suppress(OutputError):
            if self._may_commit:
                self.commit()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OutputError(self._explained(error)) from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:  # the latter from what a row holds
            raise OutputError(
                f"{store_path(self.output)} is damaged ({error}); --overwrite begins anew."
            ) from error

    def _explained(self, error: sqlite3.OperationalError) -> str:
        """What an error of SQLite means here, and what helps."""
        name, where = getattr(error, "sqlite_errorname", ""), store_path(self.output)
        if name.startswith(NOT_OURS):
            return cannot_write(where, error)
        if name.startswith(HELD):
            return f"{where} cannot be used ({error}): another program has it open; close it there."
        if not name.startswith((FULL, FAILED)):
            return f"{where} cannot be read or written ({error}): look at its disk."
        fault = f"kept ({error}); once there is room"
        if name.startswith(FAILED):  # what SQLite calls a quota that is used up, too
            why = "the disk may be full or failing, or a quota used up"
            fault = f"read or kept ({error}): {why}; once that is mended"
        instead = " instead of --overwrite" if self._overwrites else ""
        go_on = f"--resume{instead} goes on with what was kept"
        if self._overwrites and not self._has_kept:  # what is there has other settings, or is whole
            go_on = "the same command begins anew"
        return f"{self.output}: its rows cannot be {fault}, {go_on}."

    def _begin(self, settings: Mapping[str, str], *, resume: bool, overwrite: bool) -> None:
        """Checks what earlier runs left, and takes the number of this run."""
        query = "SELECT ifnull(max(run), 0), count(DISTINCT path) FROM rows"
        last, self.left_before = self._database.execute(query).fetchone()
        self._run, self._next = last + 1, 0
        self._mark = f"tentative run {self._run}"
        self._database.execute("BEGIN")
        if overwrite:
            self._database.execute("DELETE FROM rows")
            self._trust_all()
        elif self.left_before and not resume:
            raise UsageError(
                f"an earlier run left the rows of {self.left_before} images for {self.output}; --resume goes "
                "on with them, --overwrite begins anew."
            )
        elif self.left_before:
            check_settings(
                self.output, dict(self._database.execute("SELECT name, value FROM settings")), settings
            )
        self._database.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", settings.items())
        query = "SELECT EXISTS (SELECT 1 FROM certain WHERE status = ?)"
        (self._may_be_slip,) = self._database.execute(query, (Status.OK.value,)).fetchone()

    def place(self) -> int:
        """Takes the position of the next row."""
        self._next += 1
        return self._next

    def fingerprint(self, path: str) -> Fingerprint | None:
        """What the file at this path was like when a run, this one too, scored it; None if none did."""
        row = self._earlier(path)
        return None if row is None else _fingerprint(row)

    def earlier(self, path: str) -> tuple[Prediction, Fingerprint] | None:
        """The scores that were found for the file at this path, and what it was like then.

        By an earlier run or, for a path that is named twice, by this one. Failures are not handed out: what
        made an image fail may be gone although the file is the same.
        """
        row = self._earlier(path)
        if row is None:
            return None
        with self._guarded():
            return self._prediction(row), _fingerprint(row)

    def _earlier(self, path: str) -> Row | None:
        if not self._has_earlier:  # as on most nights
            return None
        with self._guarded():
            row = self._database.execute(
                "SELECT * FROM rows WHERE path = ? AND run <= ? AND status = ? "
                "ORDER BY run DESC, position DESC LIMIT 1",
                (os.fsencode(path), self._run, Status.OK.value),
            ).fetchone()
            return None if row is None else checked(row)

    def add(
        self,
        position: int,
        prediction: Prediction,
        fingerprint: Fingerprint | None,
        *,
        provisional: bool = False,
    ) -> None:
        """Keeps a row; once a second everything so far is made safe.

        Args:
            position: from `place`.
            prediction: the row.
            fingerprint: of its file. None says that there is none to be seen now: then earlier rows of this
                path stay, and count as those of an image that is gone.
            provisional: a later run is to score the image again.
        """
        size, mtime = fingerprint or (None, None)
        row: Row = (
            self._run,
            position,
            os.fsencode(prediction.path),
            size,
            None if provisional else mtime,
            prediction.status.value,
            ",".join(encode_scores(prediction.scores, self.labels)),
            json.dumps(dict(prediction.tags)),
            prediction.note,
        )
        with self._guarded():
            if not self._database.in_transaction:
                self._database.execute("BEGIN")
            if fingerprint is not None and self._has_earlier:
                self._meet(row[2])
            if self._may_be_slip and not self.met_before:
                query = "INSERT OR IGNORE INTO settings VALUES (?, ?)"
                self._database.execute(query, (self._mark, self._run))
            self._may_commit |= fingerprint is not None
            self._database.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, checksum(row))
            )
        if self._may_commit and time.monotonic() - self._committed >= COMMIT_INTERVAL_S:
            self.commit()

    def _meet(self, path: bytes) -> None:
        """Lets the earlier rows of an image go; where these are certain, all rows of this run are, too."""
        earlier = (path, self._run)
        if not self.met_before:
            query = "SELECT EXISTS (SELECT 1 FROM certain WHERE path = ? AND run < ?)"
            self.met_before = bool(self._database.execute(query, earlier).fetchone()[0])
            if self.met_before:
                self._trust_own()
        self._database.execute("DELETE FROM rows WHERE path = ? AND run < ?", earlier)

    def _trust_own(self) -> None:
        self._database.execute("DELETE FROM settings WHERE name = ?", (self._mark,))

    def _trust_all(self) -> None:
        self._database.execute("DELETE FROM settings WHERE name LIKE 'tentative run %'")

    def commit(self) -> None:
        """Makes everything so far safe."""
        with self._guarded():
            if self._database.in_transaction:
                self._database.execute("COMMIT")
                self._has_kept = True
        self._committed = time.monotonic()

    def rows(self) -> Iterator[Prediction]:
        """This run's rows, in order."""
        query = "SELECT * FROM rows WHERE run = ? ORDER BY position"
        with self._guarded():
            for row in self._database.execute(query, (self._run,)):
                yield self._prediction(checked(row))

    def count(self) -> int:
        """How many rows this run has kept."""
        with self._guarded():
            query = "SELECT count(*) FROM rows WHERE run = ?"
            return int(self._database.execute(query, (self._run,)).fetchone()[0])

    def gone(self) -> tuple[int, str]:
        """How many images that earlier runs scored were not there for this one, and the first such path.

        Tentative rows are left out: they are of inputs that were a slip, or of a run that was stopped soon.
        """
        with self._guarded():
            query = (
                "SELECT count(DISTINCT path), ifnull(min(path), x'') FROM certain "
                "WHERE run < ? AND status = ?"
            )
            number, example = self._database.execute(query, (self._run, Status.OK.value)).fetchone()
            return int(number), os.fsdecode(example)

    def forget(self) -> None:
        """Lets this run's rows go, and leaves those of earlier runs."""
        with self._guarded():
            self._database.execute("DELETE FROM rows WHERE run = ?", (self._run,))
            self._trust_own()
        self.commit()

    def settle(self) -> None:
        """Makes this run's rows the only ones, and safe."""
        with self._guarded():
            self._database.execute("DELETE FROM rows WHERE run < ?", (self._run,))
            self._trust_all()
        self.commit()

    def _prediction(self, row: Row) -> Prediction:
        _, _, path, _, _, status, scores, tags, note = row
        numbers = decode_scores(scores.split(","), self.labels) if status == Status.OK else {}
        return Prediction(os.fsdecode(path), Status(status), numbers, note, json.loads(tags))


def _fingerprint(row: Row) -> Fingerprint:
    return Fingerprint(*(-1 if number is None else number for number in row[3:5]))  # what no file has


def check_settings(output: str, earlier: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises a UsageError if what an earlier run left was made under other settings than those of now."""
    changed = [name for name in now if earlier.get(name) != now[name]]
    if changed:
        differences = ", ".join(f"{x} {earlier.get(x)} then and {now[x]} now" for x in changed)
        raise UsageError(
            f"{output} was made with other settings, so it cannot be resumed ({differences}); "
            "--overwrite begins anew."
        )


def can_be_resumed(output: str, settings: Mapping[str, str]) -> bool:
    """Whether a run left rows for an output, whole and made with these settings.

    Where the disk fails it says so, too: the run that resumes tells what is wrong, and loses nothing.
    """
    path = store_path(output)
    if not os.path.exists(path):
        return False
    try:
        with closing(sqlite3.connect(path)) as database:
            if "rows" not in made_in(database):  # what else is missing is made when it is opened
                return False
            check_settings(output, dict(database.execute("SELECT name, value FROM settings")), settings)
            for row in database.execute("SELECT * FROM rows"):
                checked(row)
    except sqlite3.OperationalError:
        return True
    except (UsageError, sqlite3.DatabaseError, ValueError):
        return False
    return True
