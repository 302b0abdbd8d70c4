"""Drawn X-rays of the kinds that people have, as many as are wanted of a few that differ.

    python -m tests.bench.speed.films FOLDER KIND COUNT

A process of its own: Linux counts the memory of a process that starts others as theirs.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["KINDS", "films_folder"]

DISTINCT = 6
"""Films that are drawn; the rest are the same files under other names, which no decoder notices."""


def _jpeg(path: Path, film: "NDArray[np.uint8]") -> None:
    from PIL import Image

    Image.fromarray(film).save(path.with_suffix(".jpg"), quality=90)


def _png(path: Path, film: "NDArray[np.uint8]") -> None:
    from PIL import Image

    Image.fromarray(film).save(path.with_suffix(".png"))


def _dicom(path: Path, film: "NDArray[np.uint8]") -> None:
    """As a detector writes it: 12 bits in 16, rescaled by one and zero, with a window."""
    import numpy as np
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    values = film.astype(np.uint16) * 16 + np.random.default_rng(0).integers(0, 16, film.shape, np.uint16)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    target = path.with_suffix(".dcm")
    dataset = FileDataset(str(target), {}, file_meta=meta, preamble=bytes(128))
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.WindowCenter, dataset.WindowWidth = "2048", "4096"
    dataset.PixelData = values.tobytes()
    dataset.save_as(target, enforce_file_format=True)


KINDS: dict[str, tuple[tuple[int, ...], Callable[[Path, "NDArray[np.uint8]"], None]]] = {
    "JPEG, 224 px": ((224,), _jpeg),
    "JPEG, 512 px": ((512,), _jpeg),
    "JPEG, 2,000 to 3,000 px": ((2000, 2500, 3000), _jpeg),
    "PNG, 1,024 px": ((1024,), _png),
    "DICOM, 16 bit, 2,304 px": ((2304,), _dicom),
}
"""Name -> heights and widths in turn, and how a film is saved."""


def films_folder(folder: Path, kind: str, count: int) -> Path:
    """Where so many films of a kind are written."""
    sizes, _ = KINDS[kind]
    return folder / f"{kind.partition(',')[0].lower()}-{sizes[-1]}-{count}"


def main(folder: Path, kind: str, count: int) -> None:
    """Writes films, unless they are there."""
    from tests.phantoms import draw

    sizes, save = KINDS[kind]
    films = films_folder(folder, kind, count)
    if films.exists():
        return
    drawn = folder / f"{films.name}-drawn"
    films.mkdir(parents=True)
    drawn.mkdir()
    for number in range(min(count, DISTINCT)):
        size = sizes[number % len(sizes)]
        save(drawn / f"{number}", draw(number, size=size, opacity=number % 2 == 0))
    files = sorted(drawn.iterdir())
    for number in range(count):
        file = files[number % len(files)]
        os.link(file, films / f"{number:06}{file.suffix}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
