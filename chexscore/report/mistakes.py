"""The most confident mistakes, and their pictures."""

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from chexscore.errors import ImageError
from chexscore.evaluation.cases import Cases
from chexscore.images import load_image
from chexscore.predictions import in_locale

__all__ = ["Mistake", "mistakes", "thumbnail"]

SIDE = 240
"""Of a picture on the page, at most, in pixels."""


class Mistake(NamedTuple):
    """A case on the wrong side of an operating point: its score and the image that decided."""

    score: float
    path: str


def mistakes(cases: Cases, column: int, threshold: float, most: int) -> list[tuple[str, int, list[Mistake]]]:
    """The false positives and the false negatives of a label.

    Args:
        cases: what was evaluated.
        column: of the label.
        threshold: a score at or above it reads as positive.
        most: how many to give of each kind, those furthest on the wrong side.

    Returns:
        ("False positives", how many there are, the worst of them), and the same of false negatives.
    """
    labels, scores = cases.labels[:, column], cases.scores[:, column]
    found = []
    for what, wrong, order in (
        ("False positives", (labels == 0) & (scores >= threshold), -scores),
        ("False negatives", (labels == 1) & (scores < threshold), scores),
    ):
        rows = np.flatnonzero(wrong)
        worst = rows[np.argsort(order[rows], kind="stable")][:most]
        shown = [Mistake(float(scores[row]), cases.images[cases.picture[row, column]]) for row in worst]
        found.append((what, len(rows), shown))
    return found


@lru_cache(maxsize=1000)
def thumbnail(path: str) -> tuple[bytes, str]:
    """A small JPEG of an image as the network saw it before its resize, or b"" and the reason why not."""
    try:
        pixels = load_image(in_locale(path))[..., 0]
    except ImageError as error:
        return b"", error.reason
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=80)
    return file.getvalue(), ""
