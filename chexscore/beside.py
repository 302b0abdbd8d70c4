"""What stands beside an output, under its name and a suffix; for a link beside what it points to."""

import os

__all__ = ["ASIDE", "LOCK", "PARTIAL", "RECORD", "SUFFIXES", "beside", "record_path", "store_path"]

PARTIAL, LOCK, RECORD, STORE = ".partial", ".lock", ".run.json", ".state"

ASIDE = ".aside"
"""What a file of an earlier output is called for the moment in which the output is replaced."""

SUFFIXES = (PARTIAL, LOCK, RECORD, STORE, f"{STORE}-journal")
"""Of these files, and what SQLite keeps beside its own."""


def beside(output: str, suffix: str) -> str:
    """The file with this suffix. By whichever link an output is named, it is the same one."""
    return f"{os.path.realpath(output) if os.path.islink(output) else output}{suffix}"


def record_path(output: str) -> str:
    """Where the record of an output stands."""
    return beside(output, RECORD)


def store_path(output: str) -> str:
    """Where the rows of an output are kept."""
    return beside(output, STORE)
