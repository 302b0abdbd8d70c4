"""Predictions joined to labels -> one table of measures."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore import metrics
from chexscore.errors import TableError
from chexscore.labels import read_table, to_targets
from chexscore.predictions import Status, read_predictions

__all__ = ["Evaluation", "Row", "evaluate", "join", "to_csv"]

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; a measure that the data do not define is NaN.

    Attributes:
        label: a label, or "macro" (mean over the labels) or "micro" (all labels of all images together).
        images: with a score and a known label.
        positives: of those.
        negatives: of those.
        auc: area under the ROC curve.
        threshold: operating point that the accuracy is measured at; NaN for the means.
        accuracy: share of images, or for "micro" of labels of images, on the right side of it.
    """

    label: str
    images: int
    positives: int
    negatives: int
    auc: float
    threshold: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The table, and what did not take part in it.

    Attributes:
        rows: one for each label that both sides have, then macro and micro.
        joined: images with both a score and a line of labels.
        not_scored: predictions that are no scores (their status is not ok).
        without_labels: scored images that no line of labels belongs to.
        without_predictions: lines of labels that no prediction belongs to.
        only_predicted: labels that the model has and the CSV of labels has not.
        assumed_thresholds: whether the model's operating points were not known for some label.
    """

    rows: tuple[Row, ...]
    joined: int
    not_scored: int
    without_labels: int
    without_predictions: int
    only_predicted: tuple[str, ...]
    assumed_thresholds: bool


def evaluate(predictions: str, labels: str, thresholds: Mapping[str, float]) -> Evaluation:
    """Measures the scores of one CSV against the labels of another.

    Args:
        predictions: CSV that `predict` wrote.
        labels: CSV with a column path (or Path) and one for each label: 1, 0, and blank or -1 for unknown.
        thresholds: label -> operating point; 0.5 for labels that it lacks.

    Raises:
        TableError: either file cannot be used, no image or no label is in both, or a path could belong to
            several lines.
    """
    names, everything = read_predictions(predictions)
    scored = [row for row in everything if row.status is Status.OK]
    table = read_table(labels)
    column = next((name for name in ("path", "Path") if name in table.columns), None)
    if column is None:
        raise TableError(f"{labels}: no column path; it has {', '.join(table.columns)}.")
    paths = list(table[column])
    shared = tuple(name for name in names if name in table.columns)
    if not shared:
        raise TableError(f"{labels}: has a column for none of the model's labels: {', '.join(names)}.")
    partners = join([row.path for row in everything], paths)
    pairs = [
        (row, line)
        for row, line in zip(everything, partners, strict=True)
        if line is not None and row.status is Status.OK
    ]
    if not pairs:
        raise TableError(
            f"no scored image of {predictions} is named in {labels}: the one has paths such as "
            f"{everything[0].path if everything else '(none)'}, the other such as {paths[0]}."
        )
    scores = np.array([[row.scores[name] for name in shared] for row, _ in pairs])
    targets = to_targets(table, shared, labels, uncertain={"default": "ignore"}, blank={"default": "ignore"})
    truth = targets[[line for _, line in pairs]]
    return Evaluation(
        rows=tuple(_rows(shared, truth, scores, thresholds)),
        joined=len(pairs),
        not_scored=len(everything) - len(scored),
        without_labels=len(scored) - len(pairs),
        without_predictions=len(paths) - sum(line is not None for line in partners),
        only_predicted=tuple(name for name in names if name not in shared),
        assumed_thresholds=not set(shared) <= set(thresholds),
    )


def join(predicted: Sequence[str], labelled: Sequence[str]) -> list[int | None]:
    """Finds for each predicted path its line of labels: the same path, or one that the other ends with.

    Folders above may be missing on either side: `images/a.png` belongs to `/data/images/a.png`. Whole names
    are compared. Where several would do, the longest common ending decides.

    Args:
        predicted: paths of the predictions.
        labelled: paths of the labels.

    Returns:
        For each prediction the index of its line, or None.

    Raises:
        TableError: still several lines for a prediction, or several predictions for a line; the text names
            them.
    """
    predictions, lines = [_parts(path) for path in predicted], [_parts(path) for path in labelled]
    whole: dict[tuple[str, ...], list[int]] = defaultdict(list)
    endings: dict[tuple[str, ...], list[int]] = defaultdict(list)
    lengths = {len(parts) for parts in predictions}
    for index, parts in enumerate(lines):
        whole[parts].append(index)
        for length in lengths:
            if length < len(parts):
                endings[parts[-length:]].append(index)

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
        if found and found[0] in taken and predicted[taken[found[0]]] == predicted[number]:
            raise TableError(f"{predicted[number]} is predicted twice; keep one of its rows.")
        if found and found[0] in taken:
            raise TableError(
                f"the labels of {labelled[found[0]]} could belong to {predicted[taken[found[0]]]} and to "
                f"{predicted[number]}; name more folders in the labels."
            )
        partners.append(found[0] if found else None)
        if found:
            taken[found[0]] = number
    return partners


def to_csv(evaluation: Evaluation) -> str:
    """The table as CSV; cells that are not defined stay empty."""
    names = [item.name for item in fields(Row)]
    frame = pd.DataFrame([asdict(row) for row in evaluation.rows], columns=names)
    return frame.to_csv(index=False, float_format="%.6f")


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def _rows(
    names: tuple[str, ...],
    truth: NDArray[np.floating],
    scores: NDArray[np.floating],
    thresholds: Mapping[str, float],
) -> Iterator[Row]:
    points = np.array([thresholds.get(name, DEFAULT_THRESHOLD) for name in names])
    each = [
        _row(name, truth[:, column], scores[:, column], float(points[column]))
        for column, name in enumerate(names)
    ]
    yield from each
    total = _row("micro", truth.ravel(), scores.ravel(), np.nan)
    right = metrics.accuracy(truth.ravel(), (scores >= points).astype(float).ravel(), 0.5)
    macro_auc, macro_accuracy = (
        metrics.mean_of_known([getattr(row, measure) for row in each]) for measure in ("auc", "accuracy")
    )
    images = int((~np.isnan(truth)).any(axis=1).sum())
    yield Row("macro", images, total.positives, total.negatives, macro_auc, np.nan, macro_accuracy)
    yield Row("micro", images, total.positives, total.negatives, total.auc, np.nan, right)


def _row(name: str, truth: NDArray[np.floating], scores: NDArray[np.floating], threshold: float) -> Row:
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    return Row(
        name,
        positives + negatives,
        positives,
        negatives,
        metrics.auroc(truth, scores),
        threshold,
        metrics.accuracy(truth, scores, threshold),
    )
