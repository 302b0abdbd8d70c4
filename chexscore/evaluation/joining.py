"""Which line of labels belongs to which image."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from chexscore.errors import TableError

__all__ = ["join", "names_in"]


def join(predicted: Sequence[str], labelled: Sequence[str]) -> list[int | None]:
    """Finds for each predicted path its line of labels: the same path, or one that the other ends with.

    Folders above may be missing on either side: `images/a.png` belongs to `/data/images/a.png`. Whole names
    are compared, without blanks around the path. Where several would do, the longest common ending decides;
    a line whose own path is predicted belongs to no other.

    Args:
        predicted: paths of the predictions.
        labelled: paths of the labels.

    Returns:
        For each prediction the index of its line, or None.

    Raises:
        TableError: a path is there twice on one side; or there are still several lines for a prediction, or
            several predictions for a line. The text names them.
    """
    predictions, lines = _all_parts(predicted, labelled)
    _refuse_twins(predictions, predicted, "predicted twice; keep one of its rows in the predictions")
    _refuse_twins(lines, labelled, "labelled twice; keep one of its lines in the labels")
    whole = {parts: [index] for index, parts in enumerate(lines)}
    endings: dict[tuple[str, ...], list[int]] = defaultdict(list)
    lengths = {len(parts) for parts in predictions}
    for index, parts in enumerate(lines):
        for length in lengths:
            if length < len(parts):
                endings[parts[-length:]].append(index)

    own = {whole[parts][0] for parts in predictions if parts in whole}
    taken: dict[int, int] = {}
    partners: list[int | None] = []
    for number, parts in enumerate(predictions):
        shorter = (whole[parts[start:]] for start in range(len(parts)) if parts[start:] in whole)
        found = whole.get(parts) or endings.get(parts) or next(shorter, [])
        if len(found) > 1:
            several = " and ".join(labelled[index] for index in found[:2])
            raise TableError(
                f"the labels of {predicted[number]} could be those of {several}; name more folders."
            )
        if found and found[0] in own and parts not in whole:
            found = []
        if found and found[0] in taken:
            raise TableError(
                f"the labels of {labelled[found[0]]} could belong to {predicted[taken[found[0]]]} and to "
                f"{predicted[number]}; name more folders in the labels."
            )
        partners.append(found[0] if found else None)
        if found:
            taken[found[0]] = number
    return partners


def _refuse_twins(paths: list[tuple[str, ...]], written: Sequence[str], fault: str) -> None:
    if len(set(paths)) < len(paths):
        count = Counter(paths)
        twice = next(index for index, parts in enumerate(paths) if count[parts] > 1)
        raise TableError(f"{written[twice]} is {fault}.")


def _all_parts(*sides: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """The names in each; macOS takes letters with marks apart, others do not, and few have files of both."""
    alike = [[unicodedata.normalize("NFC", path) for path in side] for side in sides]
    told_apart = all(len(set(one)) == len(set(side)) for one, side in zip(alike, sides, strict=True))
    return [[names_in(path) for path in side] for side in (alike if told_apart else sides)]


def names_in(path: str) -> tuple[str, ...]:
    """The names in a path, on whichever system it was written."""
    return tuple(part for part in path.strip().replace("\\", "/").split("/") if part not in ("", "."))
