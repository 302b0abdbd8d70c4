"""The SQLite file that keeps the rows of an output: its tables, opened whole, and checksums of its rows."""

import os
import sqlite3
import zlib
from contextlib import suppress
from typing import Any

from chexscore.beside import STORE, withhold

__all__ = ["SCHEMA", "Row", "checked", "checksum", "made_in", "open_database"]

VERSION = 1
"""Of the tables; goes up when they change."""

SCHEMA = (
    f"PRAGMA user_version = {VERSION}",
    "CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT)",
    """CREATE TABLE IF NOT EXISTS rows (run INTEGER, position INTEGER, path BLOB, size INTEGER, mtime INTEGER,
    status TEXT, scores TEXT, tags TEXT, note TEXT, checksum INTEGER, PRIMARY KEY (run, position))
    WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS rows_by_path ON rows (path, run)",
    """CREATE VIEW IF NOT EXISTS certain AS SELECT * FROM rows
    WHERE run NOT IN (SELECT value FROM settings WHERE name LIKE 'tentative run %')""",
)

MADE = ("settings", "rows", "rows_by_path", "certain")
"""What the schema makes."""

Row = tuple[int, int, bytes, int | None, int | None, str, str, str, str]
"""The columns of a row, without its checksum."""


def open_database(path: str, *, discard_damaged: bool) -> sqlite3.Connection:
    """Opens a store, whose structure SQLite finds whole; its rows have checksums.

    Args:
        path: the file, beside its output; it is made if it is not there.
        discard_damaged: begin anew where it is damaged.

    Raises:
        sqlite3.DatabaseError: it is damaged, of another version, or cannot be opened.
    """
    withhold(path, path.removesuffix(STORE))  # SQLite's journal has the mode of its database
    database = sqlite3.connect(path, isolation_level=None)
    try:
        if not made_in(database).issuperset(MADE):
            # Together, for what each commits by itself would be waited for until the disk has it.
            for statement in ("BEGIN", *SCHEMA, "COMMIT"):
                database.execute(statement)
    except sqlite3.DatabaseError as error:
        database.close()
        if not discard_damaged or isinstance(error, sqlite3.OperationalError):
            raise
        os.unlink(path)
        with suppress(FileNotFoundError):
            os.unlink(f"{path}-journal")
        return open_database(path, discard_damaged=False)
    return database


def made_in(database: sqlite3.Connection) -> set[str]:
    """What the schema, now or earlier, made there; a DatabaseError if that is damaged or no store."""
    found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(" ".join(found.split()))
    (version,) = database.execute("PRAGMA user_version").fetchone()
    made = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if made and version != VERSION:
        raise sqlite3.DatabaseError("or of another version of chexscore")
    return made


def checksum(row: Row) -> int:
    """Of a row; the disk may change what SQLite does not look at."""
    return zlib.crc32(repr(row).encode())


def checked(row: tuple[Any, ...]) -> Row:
    """The row without its checksum; a ValueError if they do not fit."""
    content: Row = row[:-1]
    if checksum(content) != row[-1]:
        raise ValueError(f"a row is not what was kept, number {content[1]}")
    return content
