"""Tables of labels as people keep them -> numbers, for training and evaluation alike."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.errors import TableError, UsageError
from chexscore.tables import check_cells, check_csv, read_rows

__all__ = [
    "DEFAULT",
    "Policies",
    "Policy",
    "read_policies",
    "read_table",
    "split_findings",
    "stripped",
    "to_targets",
]

Policy = Literal["negative", "positive", "ignore"]
"""What an uncertain or blank label is taken for; "ignore" leaves it out of losses and measures."""

Policies = Mapping[str, Policy]
"""Label -> policy; the key "default" serves labels that are not named."""

DEFAULT = "default"

VALUES: Mapping[Policy, float] = {"negative": 0.0, "positive": 1.0, "ignore": np.nan}


def read_policies(words: Sequence[str]) -> dict[str, Policy]:
    """Reads policies as an option gives them: "negative" for all labels, "Edema=positive" for one.

    Raises:
        UsageError: a word is none of these, or two are for the same labels.
    """
    named: dict[str, Policy] = {}
    for word in words:
        label, equals, wanted = word.rpartition("=")
        policy = next((policy for policy in get_args(Policy) if policy == wanted), None)
        if policy is None or (equals and not label):
            raise UsageError(f"{word} is none of {', '.join(get_args(Policy))}, nor LABEL= and one of them.")
        if (label or DEFAULT) in named:
            raise UsageError(f"{word} contradicts, or repeats, what was said before it of the same labels.")
        named[label or DEFAULT] = policy
    named.setdefault(DEFAULT, "ignore")
    return named


def read_table(source: str) -> pd.DataFrame:
    """Reads a CSV with one line of labels for each image; every cell stays the text that it is.

    Columns without a name and without a cell are left out.

    The index counts the file's lines behind the header from 0, blank ones too.

    Raises:
        TableError: no such file, no CSV in UTF-8 with commas, no rows or no column, one named twice, two
            without a name, or a line with more or fewer cells than the header; the text names the line.
    """
    check_csv(source, "table of labels")
    try:
        with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = read_rows(file, source)
            first = next((row for _, row in lines if row), [])
            header = [name.strip() for name in first]
            rows, numbers = [], []
            for line, row in lines:
                if row:
                    check_cells(row, len(header), f"{source}: line {line}")
                    rows.append(row)
                    numbers.append(line - 2)
    except OSError as error:
        raise TableError(f"{source}: the table of labels cannot be read: {error.strerror}.") from error
    if not rows:
        raise TableError(f"{source}: the table has no rows.")
    # Spreadsheets leave columns without a name and without a cell.
    kept = [column for column, name in enumerate(header) if name or any(row[column].strip() for row in rows)]
    if len(kept) < len(header):
        header, rows = [header[column] for column in kept], [[row[column] for column in kept] for row in rows]
    if not header:
        raise TableError(f"{source}: its first line names no column.")
    if twice := [name for name in header if header.count(name) > 1]:
        fault = f"are called {twice[0]!r}" if twice[0] else "have no name; give them names, or delete them"
        raise TableError(f"{source}: two columns {fault}.")
    return pd.DataFrame(rows, numbers, header, dtype=object)  # pandas' own text type takes UTF-8 alone


def stripped(column: pd.Series) -> pd.Series:
    """Text cells without blanks around them; pandas' own `str.strip` fails on bytes that are no UTF-8."""
    return pd.Series([cell.strip() for cell in column], index=column.index, dtype=object)


def split_findings(column: pd.Series, source: str) -> list[set[str]]:
    """NIH's cells of findings, joined by "|", as a set for each image.

    Args:
        column: of text; the index counts the file's lines behind the header from 0.
        source: the file, for errors.

    Raises:
        TableError: a blank, which says nothing about any finding; the text names the line.
    """
    findings = [{name.strip() for name in cell.split("|")} for cell in column]
    for line, found in zip(column.index, findings, strict=True):
        if "" in found:
            raise TableError(f"{source}: line {line + 2}: a blank among its findings; NIH writes No Finding.")
    return findings


def to_targets(
    table: pd.DataFrame,
    labels: Sequence[str],
    source: str,
    *,
    uncertain: Policies,
    blank: Policies,
) -> NDArray[np.float32]:
    """Label columns as numbers.

    Args:
        table: the label columns hold text: 1, 0, -1 (uncertain) or nothing; the index counts the file's
            lines behind the header from 0.
        labels: columns to read, in this order.
        source: the file, for errors.
        uncertain: policies for -1.
        blank: the same for empty cells.

    Returns:
        float32 [rows, labels], each 0, 1 or NaN for one to leave out.

    Raises:
        TableError: a value that is none of the four; the text names column and line.
    """
    targets = np.empty((len(table), len(labels)), dtype=np.float32)
    for column, label in enumerate(labels):
        text = stripped(table[label])
        numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, copy=True)
        empty = (text == "").to_numpy()
        wrong = ~empty & ~np.isin(numbers, (0, 1, -1))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise TableError(
                f"{source}: column {label}, line {table.index[row] + 2}: "
                f"{text.iloc[row]!r} is not 1, 0, -1 or blank."
            )
        numbers[numbers == -1] = VALUES[uncertain.get(label, uncertain[DEFAULT])]
        numbers[empty] = VALUES[blank.get(label, blank[DEFAULT])]
        targets[:, column] = numbers
    return targets
