"""The list of a run's inputs, taken once: what is left to score after a stop is in it."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Self

import pyarrow as pa
from pyarrow import parquet

from chexscore.cluster.storage import Folder, find, is_uri
from chexscore.errors import OutputError
from chexscore.stopping import Stop

__all__ = ["LISTING", "Inputs", "Listing", "list_name", "read_paths", "take_list"]

LISTING = "_inputs.json"

IMAGES_A_PART = 1000
"""Rows of a part, and what a stop costs at most besides what is under way."""


@dataclass(frozen=True)
class Listing:
    """What a run is to score, and how.

    Attributes:
        given: fingerprint of the paths as they were given; a run that goes on has to be given the same.
        settings: whatever changes scores, in words.
        found: inputs in the list.
        ignored: files that are no images.
        fingerprint: sha256 of settings and paths; each part carries it.
        images_a_part: inputs in a file of the list, and rows in a part, except in the last.
    """

    given: str
    settings: Mapping[str, str]
    found: int
    ignored: int
    fingerprint: str
    images_a_part: int

    @property
    def parts(self) -> int:
        """How many parts that makes."""
        return -(-self.found // self.images_a_part)

    def span(self, part: int) -> tuple[int, int]:
        """First input of a part, and first behind it."""
        return part * self.images_a_part, min((part + 1) * self.images_a_part, self.found)

    @classmethod
    def read(cls, folder: Folder) -> Self:
        """What `write` wrote.

        Raises:
            FileNotFoundError: there is no list, or not to its end.
            OutputError: it is damaged.
        """
        try:
            return cls(**json.loads(folder.read(LISTING).to_pybytes()))
        except (ValueError, TypeError) as error:
            raise OutputError(f"{folder.name}/{LISTING} is damaged; --overwrite begins anew.") from error

    def write(self, folder: Folder) -> None:
        """Makes the list valid."""
        folder.write(LISTING, json.dumps(asdict(self), indent=1).encode())


class Inputs:
    """What a run is given, to be taken once.

    Args:
        paths: files, directories and URIs.
        stop: ends the taking.

    Attributes:
        images: what is found there.
        ignored: files that are no images, as far as the images were taken.
    """

    def __init__(self, paths: Iterable[str], stop: Stop) -> None:
        self.ignored = 0
        self._digest = hashlib.sha256()
        self._given = self._noted(paths)
        self.images = find(self._given, self._ignore, stop)

    def fingerprint(self) -> str:
        """Sha256 of the paths as they were given, and where relative ones lead; takes those that are left."""
        deque(self._given, maxlen=0)
        return self._digest.hexdigest()

    def _noted(self, paths: Iterable[str]) -> Iterator[str]:
        here = os.getcwd()
        for path in paths:
            base = "" if is_uri(path) or os.path.isabs(path) else here
            self._digest.update(b"%b\0%b\0" % (os.fsencode(base), os.fsencode(path)))
            yield path

    def _ignore(self, _: str) -> None:
        self.ignored += 1


def take_list(folder: Folder, images: Iterable[str], inputs: Inputs, settings: Mapping[str, str]) -> Listing:
    """Writes the list, one file for each part, holding the paths of one part at a time; not yet valid.

    Args:
        folder: of the output.
        images: all of those of the inputs.
        inputs: where they come from.
        settings: as for `Listing`.
    """
    digest, found, rest = hashlib.sha256(json.dumps(dict(settings)).encode()), 0, map(os.fsencode, images)
    while names := list(islice(rest, IMAGES_A_PART)):
        digest.update(b"\0".join(names) + b"\0")
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table({"path": pa.array(names, pa.binary())}), sink, write_page_checksum=True)
        folder.write(list_name(found // IMAGES_A_PART), sink.getvalue().to_pybytes())
        found += len(names)
    given = inputs.fingerprint()
    return Listing(given, settings, found, inputs.ignored, digest.hexdigest(), IMAGES_A_PART)


def list_name(part: int) -> str:
    """The file of the list that goes with a part."""
    return f"_inputs/{part:06}.parquet"


def read_paths(folder: Folder, part: int) -> list[str]:
    """The inputs of one part, in order.

    Raises:
        OutputError: they cannot be read here, or are damaged.
    """
    name = list_name(part)
    try:
        table = parquet.read_table(pa.BufferReader(folder.read(name)), page_checksum_verification=True)
    except FileNotFoundError as error:
        raise OutputError(
            f"{folder.name}/{name} is not there; the output has to be on storage that every node sees, and "
            "if it is, --overwrite begins anew."
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise OutputError(f"{folder.name}/{name} is damaged; --overwrite begins anew.") from error
    return [os.fsdecode(path) for path in table["path"].to_pylist()]
