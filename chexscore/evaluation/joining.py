"""Which line of labels belongs to which image."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from chexscore.errors import TableError

__all__ = ["join", "names_in"]


def join(
    predicted: Sequence[str],
    labelled: Sequence[str],
    *,
    predictions: str = "the predictions",
    labels: str = "the labels",
    lines: Sequence[int] = (),
) -> list[int | None]:
    """Finds for each predicted path its line of labels: the same path, or one that the other ends with.

    Folders above may be missing on either side: `images/a.png` belongs to `/data/images/a.png`. Whole names
    are compared, without blanks around the path. Where several would do, the longest common ending decides;
    a line whose own path is predicted belongs to no other.

    Args:
        predicted: paths of the predictions.
        labelled: paths of the labels.
        predictions: what errors call the first.
        labels: what they call the second.
        lines: of the labels' paths in their file, where they are known, for errors.

    Returns:
        For each prediction the index of its line, or None.

    Raises:
        TableError: a path is there twice on one side; or there are still several lines for a prediction, or
            several predictions for a line. The text names them and where they are.
    """
    ours, theirs = _all_parts(predicted, labelled)
    _refuse_twins(ours, predicted, predictions, "predicted twice; keep one of its rows, or name it once")
    _refuse_twins(theirs, labelled, labels, "labelled twice; keep one of its lines", lines)
    whole = {parts: [index] for index, parts in enumerate(theirs)}
    endings: dict[tuple[str, ...], list[int]] = defaultdict(list)
    lengths = {len(parts) for parts in ours}
    for index, parts in enumerate(theirs):
        for length in lengths:
            if length < len(parts):
                endings[parts[-length:]].append(index)

    own = {whole[parts][0] for parts in ours if parts in whole}
    taken: dict[int, int] = {}
    partners: list[int | None] = []
    for number, parts in enumerate(ours):
        shorter = (whole[parts[start:]] for start in range(len(parts)) if parts[start:] in whole)
        found = whole.get(parts) or endings.get(parts) or next(shorter, [])
        if len(found) > 1:
            several = " and ".join(labelled[index] for index in found[:2])
            raise TableError(
                f"{labels}: the labels of {predicted[number]} in {predictions} could be those of {several}; "
                "name more folders."
            )
        if found and found[0] in own and parts not in whole:
            found = []
        if found and found[0] in taken:
            raise TableError(
                f"{labels}: the labels of {labelled[found[0]]} could belong to {predicted[taken[found[0]]]} "
                f"and to {predicted[number]} in {predictions}; name more folders in the labels."
            )
        partners.append(found[0] if found else None)
        if found:
            taken[found[0]] = number
    return partners


def _refuse_twins(
    paths: list[tuple[str, ...]], written: Sequence[str], source: str, fault: str, lines: Sequence[int] = ()
) -> None:
    if len(set(paths)) < len(paths):
        count = Counter(paths)
        twice = next(parts for parts in paths if count[parts] > 1)
        first, second, *_ = (index for index, parts in enumerate(paths) if parts == twice)
        place = f"lines {lines[first]} and {lines[second]}: " if lines else ""
        raise TableError(f"{source}: {place}{written[first]} is {fault}.")


def _all_parts(*sides: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """The names in each; macOS takes letters with marks apart, others do not, and few have files of both."""
    alike = [[unicodedata.normalize("NFC", path) for path in side] for side in sides]
    told_apart = all(len(set(one)) == len(set(side)) for one, side in zip(alike, sides, strict=True))
    return [[names_in(path) for path in side] for side in (alike if told_apart else sides)]


def names_in(path: str) -> tuple[str, ...]:
    """The names in a path, on whichever system it was written."""
    return tuple(part for part in path.strip().replace("\\", "/").split("/") if part not in ("", "."))
