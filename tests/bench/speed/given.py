"""X-rays of somebody's own: those that decode, linked under names that tell bare decoders what they are.

    python -m tests.bench.speed.given FOLDER IMAGES COUNT

COUNT at most, spread over all; 0 for all. Says on standard error what is left out: a file that no decoder
reads measures none.
"""

import sys
from pathlib import Path

from PIL import Image

from chexscore import find_images, load_image
from chexscore.ahead import work_ahead
from chexscore.cores import usable_cores
from chexscore.errors import ImageError
from chexscore.formats import is_dicom
from chexscore.spec import ImageSpec

__all__: list[str] = []

SUFFIXES = {"JPEG": ".jpg"}
"""Pillow's name of a format -> the suffix, where that is not the name itself."""


def kind(path: str) -> str | ImageError:
    """The suffix that an image should have, or why it cannot be decoded."""
    try:
        load_image(path, ImageSpec(224, 224))
    except ImageError as error:
        return error
    with open(path, "rb") as file:
        if is_dicom(file):
            return ".dcm"
        with Image.open(file) as picture:
            return SUFFIXES.get(picture.format or "", f".{picture.format}".lower())


def main(folder: Path, images: str, count: int) -> None:
    """Links the images, in the order of the walk."""
    folder.mkdir()
    found = list(find_images(images))
    chosen = found[:: max(1, len(found) // count)][:count] if count else found
    workers = usable_cores()
    for number, (path, suffix) in enumerate(work_ahead(chosen, kind, workers=workers, ahead=2 * workers)):
        if isinstance(suffix, ImageError):
            print(f"left out: {suffix}", file=sys.stderr)
        else:
            (folder / f"{number:06}{suffix}").symlink_to(Path(path).absolute())
    if not any(folder.iterdir()):
        raise SystemExit(f"{images}: none of the images there can be decoded.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
