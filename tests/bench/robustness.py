"""How a model of pneumonia scores X-rays that were changed: AUC, and what its thresholds make of them.

    python -m tests.bench.robustness DIR VALIDATION.csv [--model MODEL] [--adults NIH] [--only CHANGE ...]

DIR holds the X-rays, VALIDATION.csv names those to score (path, Pneumonia, Bacterial, Viral), as a run folder
or `training split` has it. Changes named "frame" are made to films with and without pneumonia in opposite
ways, against what the data set's own framing tells of the label. NIH is the folder that training.beside took
adults from; those that it left out are scored.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from chexscore import Classifier, load_image, metrics
from training.beside import adults

SEEN_AS_PNEUMONIA = ["Infiltration", "Consolidation", "Pneumonia"]
"""ChestX-ray14's findings that children's films with pneumonia would be given, too."""

MARK, RIM = 13, 5
"""Odd, pixels of 224: what is narrower can be a stroke of a letter; and how far around one is hidden."""

BRIGHTER = 50
"""Grey levels that a mark stands out by."""

Change = Callable[[Image.Image], Image.Image]


def same(film: Image.Image) -> Image.Image:
    """The film as it is."""
    return film


def crop(rows: float, columns: float) -> Change:
    """Without these shares of its height and width, at the size it had."""

    def change(film: Image.Image) -> Image.Image:
        width, height = film.size
        left, top = width * columns / 2, height * rows / 2
        return film.resize(film.size, Image.Resampling.BILINEAR, (left, top, width - left, height - top))

    return change


def pad(rows: float, columns: float) -> Change:
    """Smaller by these shares, on black."""

    def change(film: Image.Image) -> Image.Image:
        width, height = film.size
        inner = round(width * (1 - columns)), round(height * (1 - rows))
        black = Image.new("L", film.size)
        place = (width - inner[0]) // 2, (height - inner[1]) // 2
        black.paste(film.resize(inner, Image.Resampling.BILINEAR), place)
        return black

    return change


def hide(margin: float = 0, corners: float = 0, *, grey: bool = False) -> Change:
    """Black over a frame or over the four corners; or the mean of what is left, which keeps the exposure."""

    def change(film: Image.Image) -> Image.Image:
        pixels = np.array(film)
        hidden = np.zeros(pixels.shape, dtype=bool)
        for share, both in ((margin, False), (corners, True)):
            down, across = (round(side * share) for side in pixels.shape)
            rows, columns = (np.arange(side) for side in pixels.shape)
            at_rows = (rows < down) | (rows >= len(rows) - down)
            at_columns = (columns < across) | (columns >= len(columns) - across)
            outer = np.logical_and if both else np.logical_or
            hidden |= outer(at_rows[:, None], at_columns[None])
        pixels[hidden] = pixels[~hidden].mean() if grey else 0
        return Image.fromarray(pixels)

    return change


def unmark(share: float) -> Change:
    """Thin bright marks near the edges, such as letters, give way to what is around them; so do ribs."""

    def change(film: Image.Image) -> Image.Image:
        without = film.filter(ImageFilter.MinFilter(MARK)).filter(ImageFilter.MaxFilter(MARK))
        marks = ImageChops.subtract(film, without).point(lambda level: 255 * (level > BRIGHTER))
        hidden = np.array(marks.filter(ImageFilter.MaxFilter(RIM)))
        down, across = round(film.height * share), round(film.width * share)
        hidden[down : film.height - down, across : film.width - across] = 0
        return Image.composite(without, film, Image.fromarray(hidden))

    return change


def levels(curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Change:
    """Grey levels 0..1 changed by a curve."""
    table = (curve(np.arange(256) / 255).clip(0, 1) * 255).round().astype(int).tolist()
    return lambda film: film.point(table)


def shrink(side: int) -> Change:
    """As if it had been scanned with so many pixels."""
    return lambda film: film.resize((side, side), Image.Resampling.BILINEAR).resize(
        film.size, Image.Resampling.BILINEAR
    )


def noise(deviation: float) -> Change:
    """Normal noise, in grey levels; the same at each call."""

    def change(film: Image.Image) -> Image.Image:
        drawn = np.random.default_rng(0).normal(0, deviation, (film.height, film.width))
        return Image.fromarray((np.asarray(film) + drawn).clip(0, 255).astype(np.uint8))

    return change


def jpeg(quality: int) -> Change:
    """Stored as a JPEG once more."""

    def change(film: Image.Image) -> Image.Image:
        file = io.BytesIO()
        film.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("L")

    return change


def as_stored(film: Image.Image) -> Image.Image:
    """A film at full size as the data set at 224 x 224 pixels has it, for the most part."""
    return jpeg(75)(film.resize((224, 224), Image.Resampling.BICUBIC))


CHANGES: dict[str, tuple[Change, Change]] = {
    "none": (same, same),
    "frame: normal films lose 9 % of height": (crop(0.09, 0), same),
    "frame: the same, and others 9 % of width": (crop(0.09, 0), crop(0, 0.09)),
    "frame: both 18 %": (crop(0.18, 0), crop(0, 0.18)),
    "frame: normal films 18 % narrower, on black": (pad(0, 0.18), same),
    "sharpness: normal films from 112 pixels": (shrink(112), same),
    "all cropped by 15 %": (crop(0.15, 0.15),) * 2,
    "all 15 % narrower, on black": (pad(0, 0.15),) * 2,
    "all from 112 pixels": (shrink(112),) * 2,
    "brighter by 15 %": (levels(lambda grey: grey + 0.15),) * 2,
    "darker by 15 %": (levels(lambda grey: grey - 0.15),) * 2,
    "gamma 0.6": (levels(lambda grey: grey**0.6),) * 2,
    "gamma 1.6": (levels(lambda grey: grey**1.6),) * 2,
    "contrast 0.6": (levels(lambda grey: 0.5 + (grey - 0.5) * 0.6),) * 2,
    "noise of 12 levels": (noise(12),) * 2,
    "JPEG of quality 30": (jpeg(30),) * 2,
    "all 15 % smaller, on black": (pad(0.15, 0.15),) * 2,
    "margin of 10 % hidden, black": (hide(margin=0.1),) * 2,
    "margin of 10 % hidden, grey": (hide(margin=0.1, grey=True),) * 2,
    "corners of 20 % hidden, black": (hide(corners=0.2),) * 2,
    "corners of 20 % hidden, grey": (hide(corners=0.2, grey=True),) * 2,
    "letters and other marks of the outer 20 % removed": (unmark(0.2),) * 2,
    "all but the middle 40 % hidden, grey": (hide(margin=0.3, grey=True),) * 2,
    "from 64 pixels": (shrink(64),) * 2,
    "reduced to 224 pixels, JPEG of quality 75": (as_stored,) * 2,
    "inverted": (levels(lambda grey: 1 - grey),) * 2,
}
"""Name -> what is done to normal films, and to those with pneumonia."""


def main() -> None:
    """Prints one line for each change, then what is said of films without any content and of adults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("table", type=Path, metavar="VALIDATION.csv")
    parser.add_argument("--model", help="default: the bundled one")
    parser.add_argument("--adults", type=Path, metavar="NIH")
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="CHANGE")
    arguments = parser.parse_args()

    classifier = Classifier(arguments.model, device="cpu")
    labels = classifier.spec.labels
    thresholds = np.array([classifier.spec.default_thresholds[label] for label in labels])
    table = pd.read_csv(arguments.table)
    truth = table[list(labels)].to_numpy(np.float64)
    films = [Image.open(arguments.data / path).convert("L") for path in table["path"]]

    print("| change | " + " | ".join(f"AUC {label}" for label in labels), end="")
    print(f" | {labels[0]}: accuracy | sensitivity | specificity |\n|" + " --- |" * (len(labels) + 4))
    for name in arguments.only:
        changed = (CHANGES[name][int(row[0])](film) for row, film in zip(truth, films, strict=True))
        scores = score(classifier, changed)
        called, ill = scores[:, 0] >= thresholds[0], truth[:, 0] == 1
        figures = [metrics.auroc(truth[:, column], scores[:, column]) for column in range(len(labels))]
        figures += [(called == ill).mean(), called[ill].mean(), (~called[~ill]).mean()]
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |", flush=True)

    shape = (classifier.spec.image.width, classifier.spec.image.height)
    for name, grey in (("black", 0), ("grey", 128), ("white", 255)):
        scores = score(classifier, iter([Image.new("L", shape, grey)]))
        print(
            f"{name} image: "
            + ", ".join(f"{label} {s:.3f}" for label, s in zip(labels, scores[0], strict=True))
        )
    if arguments.adults:
        grown = adults(arguments.adults, left_out=True)
        batch = [load_image(str(arguments.adults / path), classifier.spec.image) for path in grown["path"]]
        scores = score(classifier, (Image.fromarray(image[..., 0]) for image in batch))[:, 0]
        found = grown.drop(columns=["path", "patient"]).astype(int)
        normal = ~found.any(axis=1)
        ill = found[SEEN_AS_PNEUMONIA].any(axis=1)
        for name, rows in (
            ("without a finding", normal),
            (f"with {', '.join(SEEN_AS_PNEUMONIA)}", ill),
            ("with other findings", ~normal & ~ill),
        ):
            share = (scores[rows] >= thresholds[0]).mean()
            print(f"adults {name}: {rows.sum()} images, {share:.1%} called {labels[0]}")
        truth = np.asarray(ill[ill | normal], dtype=np.float64)
        auc = metrics.auroc(truth, scores[ill | normal])
        print(f"adults: AUC {labels[0]} of the second against the first {auc:.3f}")


def score(classifier: Classifier, films: Iterator[Image.Image]) -> NDArray[np.float64]:
    """Scores [N, L] of grey films, brought to the network's size as `load_image` brings them."""
    shape = (classifier.spec.image.width, classifier.spec.image.height)
    return np.concatenate([classifier.score(sized(film, shape)[None]) for film in films]).astype(np.float64)


def sized(film: Image.Image, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels [H, W, 1] of a grey film, brought to a width and height."""
    return np.asarray(film if film.size == shape else film.resize(shape, Image.Resampling.BILINEAR))[
        ..., None
    ]


if __name__ == "__main__":
    main()
