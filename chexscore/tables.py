"""CSV files as people keep them: what is wrong with one is said in a sentence."""

import csv
import os
import stat
from collections.abc import Iterable, Iterator

from chexscore.errors import TableError

__all__ = ["UTF16", "check_cells", "check_csv", "read_rows"]

UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks that spreadsheets put in front of "Unicode text"."""

LONGEST_HEADER = 2**20


def check_csv(source: str, what: str) -> None:
    """Looks at the first line of a file that is to be read as a CSV.

    Args:
        source: the file.
        what: is in it, such as "table of labels", for the error.

    Raises:
        TableError: it cannot be read, is not UTF-8, or its cells are separated by something else than commas.
    """
    try:
        mode = os.stat(source).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise TableError(
                f"{source}: the {what} is read more than once, so it has to be a file; save it first."
            )
        with open(source, "rb") as file:
            header = file.readline(LONGEST_HEADER)
    except OSError as error:
        raise TableError(f"{source}: the {what} cannot be read: {error.strerror}.") from error
    if header.startswith(UTF16) or b"\0" in header:
        raise TableError(f'{source}: not UTF-8 text; save it as "CSV UTF-8".')
    try:
        text = header.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f'{source}: its first line is not UTF-8; save it as "CSV UTF-8".') from error
    for separator, name in ((b";", "semicolons"), (b"\t", "tabs")):
        if header.count(separator) > header.count(b","):
            raise TableError(f"{source}: its cells are separated by {name}; save it with commas.")
    if text.startswith("sep="):
        raise TableError(f"{source}: its first line, {text.strip()}, is for Excel alone; delete it.")


def check_cells(row: list[str], width: int, place: str) -> None:
    """Raises a TableError, with the place in front, if a row has not as many cells as the header."""
    if len(row) == width:
        return
    helps = "; numbers need decimal points, and cells with a comma in them quotation marks"
    raise TableError(f"{place} has {len(row)} cells, the header {width}{helps if len(row) > width else ''}.")


def read_rows(lines: Iterable[str], source: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV, each with the number of the line that it ends in; blank lines are rows without cells.

    Args:
        lines: of the file.
        source: the file, for errors.

    Raises:
        TableError: a quote without its end, which would take all lines behind it, or one inside a cell.
    """
    rows, ended = csv.reader(lines, strict=True), 0
    try:
        for row in rows:
            ended = rows.line_num
            yield ended, row
    except csv.Error as error:
        raise TableError(
            f"{source}: not a CSV: {error}; look for a quotation mark in the row that begins in line "
            f"{ended + 1}."
        ) from error
