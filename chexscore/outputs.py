"""Where predictions go: CSV, JSON lines or Parquet, under their name in one step, or standard output."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Literal, TextIO

from chexscore.beside import ASIDE, PARTIAL, beside, copy_mode, take_back
from chexscore.errors import OutputError, UsageError
from chexscore.messages import visible
from chexscore.predictions import Columns, Prediction, encode_scores, in_utf8, write_csv

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "STDOUT",
    "Format",
    "check_format",
    "check_target",
    "list_paths",
    "publish",
    "replacing",
    "standard_output",
    "stream",
    "to_table",
]

Format = Literal["csv", "jsonl", "parquet"]

STDOUT = "-"
SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
PARQUET_ROWS = 10_000
"""Rows of a Parquet row group: what is in memory at a time."""


def check_format(output: str) -> Format:
    """The format that the output's suffix asks for.

    Raises:
        UsageError: another suffix, or Parquet is asked for and pyarrow is not installed.
    """
    wanted = SUFFIXES.get(os.path.splitext(output)[1].lower())
    if wanted is None:
        raise UsageError(f"{output}: the suffix decides the format; .csv, .jsonl and .parquet are written.")
    if wanted == "parquet":
        try:
            import pyarrow as pa  # noqa: F401, PLC0415, an extra
        except ImportError as error:
            raise UsageError(f"{output}: Parquet needs pyarrow: pip install 'chexscore[parquet]'.") from error
    return wanted


def check_target(target: str, *, overwrite: bool = True) -> None:
    """Raises a UsageError if no file can be put there, or one is there that is not to be overwritten."""
    if not target:
        raise UsageError("the output has no name.")
    if os.path.isdir(target):
        raise UsageError(f"{target} is a directory; name a file, such as {os.path.join(target, 'out.csv')}.")
    if os.path.exists(target) and not os.path.isfile(target):
        raise UsageError(f"{target} is not a regular file; {STDOUT} is standard output.")
    if os.path.exists(target) and not overwrite:
        raise UsageError(f"{target} exists; --overwrite replaces it.")
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"{target} cannot be written: there is no folder {folder}.")


@contextmanager
def replacing(target: str) -> Iterator[BinaryIO]:
    """Opens a file beside the target, which gets the target's name in one step once it is safe on disk.

    Raises:
        OutputError: the disk is full or gone, the folder is not ours, or another process has begun to write
            the same target; this one has changed nothing there.
    """
    with _partial(target) as file:
        yield file
        _make_safe(file, target)
        _name(file, target)


def publish(
    output: str,
    predictions: Iterable[Prediction],
    columns: Columns,
    record: str,
    content: bytes,
    outdated: Sequence[str] = (),
) -> None:
    """Writes a file of predictions, and the record that stands beside it; see `replacing`.

    All that can fail for want of room comes first. Then the earlier record goes aside, the output gets its
    name, and the record its own: no crash leaves an output beside a record of another one. What a crash
    leaves aside the next that locks the output takes back, or away: this is for who holds the lock.

    Args:
        output: the file of predictions; its suffix decides the format.
        predictions: its rows.
        columns: what it says of each.
        record: where the record stands.
        content: of the record.
        outdated: files beside an earlier output that would be wrong beside this one.

    Raises:
        OutputError: as for `replacing`.
    """
    with _partial(output) as rows:
        _WRITERS[check_format(output)](rows, predictions, columns)
        _make_safe(rows, output)
        with _partial(record, output) as words:
            words.write(content)
            _make_safe(words, record)
            with _aside([record, *outdated], rows.name):
                _name(rows, output)
                _name(words, record)


@contextmanager
def _aside(paths: Sequence[str], partial: str) -> Iterator[None]:
    """Takes files of an earlier output away; they come back if the new one, still partial, gets no name."""
    try:
        for path in filter(os.path.lexists, paths):
            _rename(path, f"{path}{ASIDE}", path)
        yield
    finally:
        for path in paths:
            with suppress(OSError):
                take_back(path, partial)


@contextmanager
def _partial(target: str, *likes: str) -> Iterator[BinaryIO]:
    """A file beside the target, or what it links to, which is gone afterwards unless it has got that name.

    Who may not read an earlier target, or one of `likes` that is there, may not read this one.
    """
    partial, own = beside(target, PARTIAL), None
    try:
        with suppress(OSError):
            os.unlink(partial)  # of a run that was killed; it may be read-only
        with open(partial, "wb") as file:
            own = os.fstat(file.fileno())
            copy_mode(partial, target, *likes)
            yield file
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            if own and _is_at(own, partial):  # or it is another process's by now
                os.unlink(partial)


def _is_at(own: os.stat_result, path: str) -> bool:
    """Whether a path still leads to the file of this status."""
    try:
        return os.path.samestat(own, os.stat(path))
    except FileNotFoundError:
        return False


def _name(file: BinaryIO, target: str) -> None:
    _rename(file.name, file.name.removesuffix(PARTIAL), target)


def _rename(source: str, to: str, target: str) -> None:
    """Raises an OutputError about the target, whatever else is being written."""
    try:
        os.replace(source, to)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from error


def _make_safe(file: BinaryIO, target: str) -> None:
    """Brings a file to the disk.

    Raises:
        OutputError: what has its name is another file, of a process that took this one for a killed run's.
    """
    file.flush()
    os.fsync(file.fileno())
    if not _is_at(os.fstat(file.fileno()), file.name):
        raise OutputError(f"{target} cannot be written: another process writes it at the same time.")
    file.close()  # Windows renames no open file


def stream(predictions: Iterable[Prediction], columns: Columns, *, jsonl: bool) -> None:
    """Writes predictions to standard output as they come, as CSV or JSON lines.

    Raises:
        OutputError: its reader went away, or its disk is full.
        UsageError: it was closed from the beginning.
    """
    with standard_output() as file:
        if jsonl:
            _write_jsonl(file, predictions, columns)
        else:
            _write_csv(file, map(_visible, predictions) if file.isatty() else predictions, columns)


def list_paths(paths: Iterable[str]) -> int:
    """Writes paths to standard output, a line each; raises as `stream` does.

    Returns:
        How many there were.
    """
    number = 0
    with standard_output() as file:
        for path in paths:
            file.write((visible(path).encode() if file.isatty() else os.fsencode(path)) + b"\n")
            number += 1
    return number


@contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """The bytes of standard output, which are written when this ends.

    Raises:
        OutputError: its reader went away, or its disk is full.
        UsageError: it was closed from the beginning.
    """
    if sys.stdout is None:
        raise UsageError("standard output is closed.")
    try:
        yield sys.stdout.buffer
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        if isinstance(error, BrokenPipeError):
            raise OutputError("standard output was closed before its end.") from error
        raise OutputError(f"standard output cannot be written: {error.strerror}.") from error


def _visible(prediction: Prediction) -> Prediction:
    """For a terminal: no file name and no tag commands it."""
    tags = {keyword: visible(value) for keyword, value in prediction.tags.items()}
    return replace(prediction, path=visible(prediction.path), tags=tags)


def _text(file: BinaryIO) -> TextIO:
    return open(file.fileno(), "w", encoding="utf-8", errors="surrogateescape", newline="", closefd=False)


def _write_csv(file: BinaryIO, predictions: Iterable[Prediction], columns: Columns) -> None:
    with _text(file) as text:
        write_csv(text, predictions, columns)


def _write_jsonl(file: BinaryIO, predictions: Iterable[Prediction], columns: Columns) -> None:
    for prediction in predictions:
        line = json.dumps(_record(prediction, columns))  # ASCII: a name that is no UTF-8 stays readable
        file.write(line.encode() + b"\n")


def _record(prediction: Prediction, columns: Columns) -> dict[str, object]:
    """One row as JSON has it: numbers as numbers, what is not there as null."""
    scores = encode_scores(prediction.scores, columns.labels)
    positives = columns.positives(prediction)
    return {
        "path": in_utf8(prediction.path),
        "status": prediction.status.value,
        **{
            label: float(score) if score else None
            for label, score in zip(columns.labels, scores, strict=True)
        },
        "note": prediction.note,
        **{f"{label}_positive": positives.get(f"{label}_positive") for label in columns.thresholds},
        **{tag: prediction.tags.get(tag) for tag in columns.tags},
    }


def _write_parquet(file: BinaryIO, predictions: Iterable[Prediction], columns: Columns) -> None:
    from pyarrow import parquet  # noqa: PLC0415, an extra

    rest = iter(predictions)
    with parquet.ParquetWriter(file, _schema(columns)) as writer:
        while rows := list(islice(rest, PARQUET_ROWS)):
            writer.write_table(to_table(rows, columns))


def to_table(predictions: Iterable[Prediction], columns: Columns) -> "pa.Table":
    """The rows as Parquet has them."""
    import pyarrow as pa  # noqa: PLC0415, an extra

    rows = [_utf8(_record(prediction, columns)) for prediction in predictions]
    return pa.Table.from_pylist(rows, schema=_schema(columns))


def _schema(columns: Columns) -> "pa.Schema":
    import pyarrow as pa  # noqa: PLC0415, an extra

    text = dict.fromkeys(("path", "status", "note", *columns.tags), pa.string())
    numbers = dict.fromkeys(columns.labels, pa.float64())
    flags = {f"{label}_positive": pa.int8() for label in columns.thresholds}
    kinds = {**text, **numbers, **flags}
    return pa.schema([(name, kinds[name]) for name in columns.names])


def _utf8(record: dict[str, object]) -> dict[str, object]:
    r"""Parquet holds nothing but UTF-8: bytes of a file name that are none become \\xNN."""
    path = str(record["path"]).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return {**record, "path": path}


_WRITERS = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}
