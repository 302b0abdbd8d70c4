"""Measures of all labels with bootstrap intervals, patients (or other groups) drawn with replacement.

All images of a patient come and go together, because they are not independent of each other. Each draw has
as many patients as the data; an interval runs from the 2.5th to the 97.5th percentile of a measure over the
draws (the percentile interval of Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chexscore.samples import Sample

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "Interval",
    "bootstrap",
    "compare",
    "estimate",
    "interval",
    "number",
]

RESAMPLES = 1000
LEVEL = 0.95
"""Of the intervals."""

CELLS = 2**20
"""Weights that are looked at together: bounds the memory, and keeps to the processor's cache."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Interval(NamedTuple):
    """A measure and its 95 % interval; NaN where it is not defined, low and high also where too few draws do.

    Attributes:
        value: on the data themselves.
        low: 2.5th percentile over the draws.
        high: 97.5th percentile.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is larger than chance explains at this level."""
        return self.low > 0 or self.high < 0


def estimate(
    labels: NDArray[np.floating],
    scores: NDArray[np.floating],
    groups: ArrayLike,
    names: Sequence[str],
    thresholds: Sequence[float] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measures scores against labels, with intervals.

    Args:
        labels: [N, L], 1, 0, or NaN for unknown, which is left out.
        scores: [N, L], 0..1.
        groups: [N], the patient of each image, as text or numbers.
        names: of the L labels.
        thresholds: of the L labels, to measure accuracy and the like at.
        resamples: draws of patients.
        seed: the same seed draws the same patients.

    Returns:
        "<measure>/<label>" -> Interval, and so for "macro" (mean over the labels that define the measure) and
        "micro" (all labels of all images together). The measures are auc, average_precision, prevalence (the
        average precision of a guess), brier, calibration_error and, with thresholds, sensitivity,
        specificity, ppv, npv, accuracy and f1.
    """
    points = {} if thresholds is None else {"": thresholds}
    sample = Sample(labels, scores, number(groups), names, points)
    (found,) = bootstrap([sample], resamples=resamples, seed=seed)
    return _named(sample.names, found)


def compare(
    labels: NDArray[np.floating],
    scores: NDArray[np.floating],
    others: NDArray[np.floating],
    groups: ArrayLike,
    names: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measures how much better one model's `scores` are than another's, on the same images.

    Both are measured on the same draws, so the differences are paired.

    Args:
        labels: as for `estimate`.
        scores: [N, L], of one model.
        others: [N, L], of the other.
        groups: as for `estimate`.
        names: as for `estimate`.
        resamples: as for `estimate`.
        seed: as for `estimate`.

    Returns:
        As `estimate`, each the first model's measure minus the other's: "auc/macro" and so on.
    """
    numbers = number(groups)
    samples = [Sample(labels, each, numbers, names) for each in (scores, others)]
    first, second = bootstrap(samples, resamples=resamples, seed=seed)
    return _named(samples[0].names, {measure: first[measure] - second[measure] for measure in first})


def bootstrap(
    samples: Sequence[Sample], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, Floats]]:
    """Measures samples on the same draws of groups, so that their measures can be compared draw by draw.

    Args:
        samples: whose groups are numbered in the same way; one may lack some of the groups.
        resamples: how often to draw as many groups as there are, with replacement.
        seed: the same seed draws the same groups.

    Returns:
        For each sample measure -> [1 + resamples, columns of its names]: on the data, then on each draw.
    """
    groups = 1 + max(int(sample.groups.max(initial=-1)) for sample in samples)
    size = max(sample.size for sample in samples)
    parts: list[dict[str, list[Floats]]] = [{} for _ in samples]
    for weights in _draws(groups, resamples, seed, size):
        for sample, measured in zip(samples, parts, strict=True):
            for measure, values in sample.measure(weights).items():
                measured.setdefault(measure, []).append(values)
    return [{measure: np.concatenate(each) for measure, each in measured.items()} for measured in parts]


def number(groups: ArrayLike) -> Integers:
    """[N] names of groups -> [N] numbers 0..G-1."""
    return np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def interval(values: Floats) -> NDArray[np.float64]:
    """[1 + B, C], the data and then the draws -> [C, 3]: value, low and high.

    Low and high are NaN where over 5 % of the draws do not define the measure (as with fewer than three or
    four positive patients): the rest would know nothing about its tails. So they are where all draws are
    equal, as of a sensitivity of 1: that the draws do not vary does not make the measure certain.
    """
    tail = (1 - LEVEL) / 2
    bounds = np.full((2, values.shape[1]), np.nan)
    draws = values[1:]
    if len(draws):
        usable = ~np.isnan(values[0]) & (np.isnan(draws).mean(axis=0) <= 1 - LEVEL)
        usable[usable] = np.nanmin(draws[:, usable], axis=0) < np.nanmax(draws[:, usable], axis=0)
        bounds[:, usable] = np.nanquantile(draws[:, usable], [tail, 1 - tail], axis=0)
    return np.column_stack([values[0], *bounds])


def _draws(groups: int, resamples: int, seed: int, size: int) -> Iterator[Integers]:
    """int64 [B, G], how often each group is there: once for the data themselves, then as drawn.

    What is drawn does not depend on `size`, the cells that each weight is applied to; how many draws come
    together does.
    """
    yield np.ones((1, groups), dtype=np.int64)
    random = np.random.default_rng(seed)
    together = max(1, CELLS // max(size, groups, 1))
    for start in range(0, resamples, together):
        count = min(together, resamples - start)
        yield np.stack(
            [np.bincount(random.integers(groups, size=groups), minlength=groups) for _ in range(count)]
        )


def _named(names: Sequence[str], measured: Mapping[str, Floats]) -> dict[str, Interval]:
    return {
        f"{measure}/{name}": Interval(*map(float, row))
        for measure, values in measured.items()
        for name, row in zip(names, interval(values), strict=True)
    }
