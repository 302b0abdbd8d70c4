"""The output of a cluster: a folder of Parquet parts that becomes valid in one step.

    part-000000.parquet          rows, as a .parquet output of one machine has them, in the order of the list
    _inputs/000000.parquet       the list: the paths of these rows, as bytes
    _inputs.json                 where the list comes from, and the settings of the run
    _manifest.json               the record of the run, its columns and its parts
    _SUCCESS                     comes last: the folder is whole

Each part appears in one step, and carries the fingerprint of list and settings; one that a stop cut short
says which of its rows it has. Readers of Parquet folders pass over what begins with "_".
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain, groupby
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from chexscore.cluster.listing import LISTING, Listing, read_paths
from chexscore.cluster.storage import Folder
from chexscore.errors import OutputError, UsageError
from chexscore.outputs import to_table
from chexscore.predictions import Columns, Prediction, Status
from chexscore.records import RunRecord
from chexscore.stopping import Stop

__all__ = ["SUCCESS", "Parts", "Scored", "clear", "merged", "names_in"]

SUCCESS, MANIFEST = "_SUCCESS", "_manifest.json"
OWN = re.compile(
    r"(part-\d+\.parquet|_inputs/\d+\.parquet|_inputs\.json|_manifest\.json|_SUCCESS)(\.partial)?"
)
METADATA = b"chexscore"
RESUMES = "`chexscore predict` with --resume makes it whole"


class Scored(NamedTuple):
    """A row, the place of its image in the list, and the images of the batch that it was scored in."""

    position: int
    prediction: Prediction
    batch_size: int


@dataclass(frozen=True)
class Parts:
    """The parts of one list.

    Attributes:
        folder: where they are.
        listing: what they are of.
        columns: what they say of each image.
        batch_size: of the settings; rows of smaller batches are provisional, as on one machine.
    """

    folder: Folder
    listing: Listing
    columns: Columns
    batch_size: int

    def missing(self, stop: Stop) -> list[tuple[int, int]]:
        """The places without a row of status ok, as ranges: first, and first behind; a stop ends the look."""
        spans: list[tuple[int, int]] = []
        for part in range(self.listing.parts):
            if stop.asked():
                break
            begin, end = self.listing.span(part)
            kept = self._kept(part)
            for position in range(begin, end):
                if position - begin in kept:
                    continue
                if spans and spans[-1][1] == position:
                    spans[-1] = spans[-1][0], position + 1
                else:
                    spans.append((position, position + 1))
        return spans

    def fill(self, scored: Iterable[Scored], missing: Iterable[tuple[int, int]]) -> Iterator[Scored]:
        """Writes each part when its last row has come, or the rows have come to an end; passes them on.

        Args:
            scored: a row for each place that is missing, in order; they may come to an end before.
            missing: those places.

        Raises:
            OutputError: a row came that is not the next; those before it are kept.
        """
        scored = _in_turn(scored, chain.from_iterable(range(begin, end) for begin, end in missing))
        valid = True
        for part, rows in groupby(scored, key=lambda row: row.position // self.listing.images_a_part):
            begin, _ = self.listing.span(part)
            together, provisional = self._kept(part), False
            try:
                for row in rows:
                    together[row.position - begin] = row.prediction
                    provisional |= row.batch_size < self.batch_size
                    yield row
            finally:
                if valid:
                    self.folder.delete(SUCCESS)
                    valid = False
                self._write(part, together, provisional=provisional)

    def publish(self, record: RunRecord) -> None:
        """Makes the folder valid."""
        spans = (self.listing.span(part) for part in range(self.listing.parts))
        manifest = {
            "record": asdict(record),
            "columns": asdict(self.columns),
            "parts": [{"name": _name(part), "rows": end - begin} for part, (begin, end) in enumerate(spans)],
        }
        self.folder.write(MANIFEST, json.dumps(manifest, indent=1).encode())
        self.folder.write(SUCCESS, b"")

    def rows(self) -> Iterator[Prediction]:
        """All rows, in order, with the paths as they were given.

        Raises:
            OutputError: a part is missing, damaged, or of another run.
        """
        for part in range(self.listing.parts):
            rows, paths = self._read(part), read_paths(self.folder, part)
            if len(rows) != len(paths):
                raise OutputError(
                    f"{self.folder.name}/{_name(part)} is missing, damaged or of another run; {RESUMES}."
                )
            for place, path in enumerate(paths):
                yield replace(rows[place], path=path)

    def _kept(self, part: int) -> dict[int, Prediction]:
        """The rows of a part that need not be scored again, by their places in it."""
        return {place: row for place, row in self._read(part, final=True).items() if row.status is Status.OK}

    def _read(self, part: int, *, final: bool = False) -> dict[int, Prediction]:
        """The rows of a part of this list and these settings, by place; `final` leaves provisional ones."""
        try:
            source = pa.BufferReader(self.folder.read(_name(part)))
            table = parquet.read_table(source, page_checksum_verification=True)
            about = json.loads(table.schema.metadata[METADATA])
        except (FileNotFoundError, pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            return {}  # to be scored again
        if about["fingerprint"] != self.listing.fingerprint or (final and about["provisional"]):
            return {}
        places = range(len(table)) if about["places"] is None else about["places"]
        return dict(zip(places, map(self._prediction, table.to_pylist()), strict=True))

    def _prediction(self, row: Mapping[str, Any]) -> Prediction:
        scores = {label: row[label] for label in self.columns.labels if row[label] is not None}
        tags = {tag: row[tag] for tag in self.columns.tags if row[tag] is not None}
        return Prediction(row["path"], Status(row["status"]), scores, row["note"], tags)

    def _write(self, part: int, rows: Mapping[int, Prediction], *, provisional: bool) -> None:
        begin, end = self.listing.span(part)
        places = sorted(rows)
        about = {
            "fingerprint": self.listing.fingerprint,
            "provisional": provisional,
            "places": None if len(places) == end - begin else places,
        }
        table = to_table([rows[place] for place in places], self.columns)
        table = table.replace_schema_metadata({METADATA: json.dumps(about)})
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink, write_page_checksum=True)
        self.folder.write(_name(part), sink.getvalue().to_pybytes())


def merged(folder: Folder) -> tuple[Parts, Mapping[str, Any]]:
    """The parts of a folder that is whole, and the record of their run.

    Raises:
        UsageError: it is not whole, or no such folder.
        OutputError: it is damaged.
    """
    try:
        folder.read(SUCCESS)
        manifest = json.loads(folder.read(MANIFEST).to_pybytes())
        listing = Listing.read(folder)
        columns = Columns(**{name: _frozen(value) for name, value in manifest["columns"].items()})
        record = manifest["record"]
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder.name}: no finished output of --engine ray ({SUCCESS}, {MANIFEST} and {LISTING} have to "
            f"be there); {RESUMES}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{folder.name}/{MANIFEST} is damaged; {RESUMES}.") from error
    return Parts(folder, listing, columns, 0), record


def names_in(folder: Folder) -> list[str]:
    """What runs have left in a folder.

    Raises:
        UsageError: there are other files.
    """
    names = folder.names()
    if foreign := [name for name in names if not OWN.fullmatch(name)]:
        raise UsageError(f"{folder.name} holds other files, such as {foreign[0]}; name a folder of its own.")
    return names


def clear(folder: Folder) -> None:
    """Takes everything away, what makes it valid first."""
    for name in (SUCCESS, MANIFEST, LISTING, *names_in(folder)):
        folder.delete(name)


def _in_turn(scored: Iterable[Scored], places: Iterator[int]) -> Iterator[Scored]:
    for row in scored:
        expected = next(places, None)
        if row.position != expected:
            raise OutputError(f"row {row.position} came instead of {expected}; please report this.")
        yield row


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _name(part: int) -> str:
    return f"part-{part:06}.parquet"
