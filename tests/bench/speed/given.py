"""X-rays of somebody's own: those that decode, linked under names that bare decoders understand.

    python -m tests.bench.speed.given FOLDER IMAGES COUNT

COUNT at most, 0 for all. Says on standard error what is left out: a file that no decoder reads measures none.
"""

import os
import sys
from pathlib import Path

from chexscore import find_images, load_image
from chexscore.errors import ImageError
from chexscore.formats import is_dicom

__all__: list[str] = []


def main(folder: Path, images: str, count: int) -> None:
    """Links the images, in the order of the walk."""
    folder.mkdir()
    linked = 0
    for image in find_images(images):
        try:
            load_image(image)
        except ImageError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        with open(image, "rb") as file:
            suffix = ".dcm" if is_dicom(file) else os.path.splitext(image)[1].lower()
        (folder / f"{linked:06}{suffix}").symlink_to(os.path.abspath(image))
        linked += 1
        if linked == count:
            break
    if not linked:
        raise SystemExit(f"{images}: none of the images there can be decoded.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
