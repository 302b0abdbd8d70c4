"""Measures of all labels with bootstrap intervals, patients (or other groups) drawn with replacement.

All images of a patient come and go together, because they are not independent of each other. Each draw has
as many patients as the data; what a measure varies by over the draws is its standard error (Efron and
Tibshirani 1993, An Introduction to the Bootstrap, chapter 6). An interval is the value plus and minus t
standard errors on the logit scale (Pepe 2003, The Statistical Evaluation of Medical Tests, section 5.2, for
the AUC): a percentile interval is too narrow where few patients are positive. For the same reason the error
is that of n - 1 degrees of freedom (Hesterberg 2015, doi:10.1080/00031305.2015.1089789), and t is Student's.

A mean over labels is less in doubt than each of them, and has an interval where they have none. Its error is
what it varies by itself, each label enlarged as if alone. Its degrees of freedom are those of labels that
vary independently, each with n - 1 (Satterthwaite 1946, doi:10.2307/3002019), or as much fewer as their mean
varies more than that of such. Its scale is arcsin sqrt, because the logit of a mean near 1 with much doubt
reaches nearly to 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chexscore.samples import MACRO, Sample

__all__ = [
    "FEWEST",
    "LEVEL",
    "RESAMPLES",
    "Draws",
    "Interval",
    "bootstrap",
    "differences",
    "intervals",
    "number",
]

RESAMPLES = 1000
LEVEL = 0.95
"""Of the intervals."""

FEWEST = 10
"""Patients that a measure has to rest on, of either class where it needs both: below it no interval is given,
because it would hold the truth too rarely (`python -m tests.bench.evaluation coverage`)."""

TELLING = 3
"""Groups from which on draws tell what a label varies by, for a mean over it and others."""

CELLS = 2**20
"""Weights that are looked at together: bounds the memory, and keeps to the processor's cache."""

EQUAL = 1e-12
"""Measures that differ by less do so by rounding."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Interval(NamedTuple):
    """A measure and its 95 % interval; NaN where not defined, low and high also where no bounds are known.

    Attributes:
        value: on the data themselves.
        low: lower bound.
        high: upper bound.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is larger than chance explains at this level."""
        return self.low > 0 or self.high < 0


class Columns(NamedTuple):
    """A measure of the C columns of a sample.

    Attributes:
        values: [1 + B, C], on the data, then on each draw.
        error: [C], standard error.
        freedom: [C], degrees of freedom of that error.
        support: [C], how many groups each rests on.
    """

    values: Floats
    error: Floats
    freedom: Floats
    support: Floats


@dataclass(frozen=True)
class Draws:
    """A sample, measured on the data and on each draw.

    Attributes:
        names: of the C columns: the L labels, the means, "micro".
        means: name -> columns of the labels.
        measured: measure -> [1 + B, L + 1], the labels and "micro": on the data, then on each draw.
        support: measure -> [C], how many groups it rests on; see `Sample`.
        complete: measure -> [L], labels that means are over; see `Sample`.
        pooled: measure -> [L], labels that "micro" is over; see `Sample`.
    """

    names: tuple[str, ...]
    means: Mapping[str, Sequence[int]]
    measured: Mapping[str, Floats]
    support: Mapping[str, Integers]
    complete: Mapping[str, NDArray[np.bool_]]
    pooled: Mapping[str, NDArray[np.bool_]]

    def columns(self, measure: str, over: NDArray[np.bool_] | None = None) -> Columns:
        """A measure with its means, which are over the same labels on the data and in every draw.

        Args:
            measure: which.
            over: [L], labels to take means over, if they are complete; without, all that are.

        Returns:
            The labels, the means, "micro". A mean is NaN without labels, if one of them does not have the
            measure on the data, and, unless it is the macro mean, if one of its labels is left out.
        """
        values, support = self.measured[measure], self.support[measure].astype(np.float64)
        over = self.complete[measure] if over is None else self.complete[measure] & over
        count = len(over)
        each = np.append(support[:count], support[-1])
        alone = Columns(values, _spread(values) * np.sqrt(each / np.maximum(each - 1, 1)), each - 1, each)
        means = []
        for place, (name, chosen) in enumerate(self.means.items(), count):
            kept = [column for column in chosen if over[column]]
            if name != MACRO and len(kept) < len(chosen):
                kept = []
            # Groups of labels that are left out tell nothing of the mean.
            whole = len(kept) == np.count_nonzero(self.complete[measure][list(chosen)])
            together = support[place] if whole else support[kept].max(initial=0)
            means.append(_mean(values[:, kept], support[kept], together))
        parts = zip(alone, *means, strict=True)
        return Columns(
            *(np.concatenate([one[..., :count], *mean, one[..., count:]], axis=-1) for one, *mean in parts)
        )


def bootstrap(samples: Sequence[Sample], *, resamples: int = RESAMPLES, seed: int = 0) -> list[Draws]:
    """Measures samples on the same draws of groups, so that their measures can be compared draw by draw.

    Args:
        samples: whose groups are numbered in the same way; one may lack some of the groups.
        resamples: how often to draw as many groups as there are, with replacement.
        seed: the same seed draws the same groups.
    """
    groups = 1 + max(int(sample.groups.max(initial=-1)) for sample in samples)
    size = max(sample.size for sample in samples)
    parts: list[dict[str, list[Floats]]] = [{} for _ in samples]
    for weights in _draws(groups, resamples, seed, size):
        for sample, measured in zip(samples, parts, strict=True):
            for measure, values in sample.measure(weights).items():
                measured.setdefault(measure, []).append(values)
    return [
        Draws(
            sample.names,
            sample.means,
            {measure: np.concatenate(each) for measure, each in measured.items()},
            sample.support,
            sample.complete,
            sample.pooled,
        )
        for sample, measured in zip(samples, parts, strict=True)
    ]


def number(groups: ArrayLike) -> Integers:
    """[N] names of groups -> [N] numbers 0..G-1."""
    return np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def intervals(draws: Draws, over: NDArray[np.bool_] | None = None) -> dict[str, Floats]:
    """Measure -> [C, 3], value, low and high; `over` as in `Draws.columns`.

    Low and high are NaN for a measure that rests on fewer than FEWEST groups or that over 5 % of the draws do
    not define; a mean rests on the groups of all its labels. An AUC or share of 1 (or 0) is 1 in every draw,
    which does not make it certain: its low is then 0.025^(1/n), what n groups that are all right leave open
    (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404).
    """
    return {measure: _bounded(draws.columns(measure, over), len(draws.means)) for measure in draws.measured}


def differences(first: Draws, second: Draws, over: NDArray[np.bool_] | None = None) -> dict[str, Floats]:
    """Measure -> [C, 3], the first minus the second, drawn together; a mean is over labels complete in both.

    "micro" is NaN at an operating point that the sides have for different labels: what these differ by would
    count as a difference of the sides.

    The bounds are put together from those of both sides (MOVER: Zou and Donner 2008, doi:10.1002/sim.3095),
    so that a side that hardly varies, with an AUC near 1, say, keeps its doubt. What both sides vary by
    together is taken out: the bounds come closer by as much as differences vary less than they would if the
    sides had been drawn apart. Where differences do not vary but the sides do, as of a model and itself,
    there are none.
    """
    found = {}
    for measure in first.measured.keys() & second.measured.keys():
        both = first.complete[measure] & second.complete[measure] & (True if over is None else over)
        sides = [side.columns(measure, both) for side in (first, second)]
        (a, a_low, a_high), (b, b_low, b_high) = (_bounded(side, len(first.means)).T for side in sides)
        ours, theirs = (side.values for side in sides)
        apart = np.hypot(_spread(ours), _spread(theirs))
        still = apart <= EQUAL
        nearer = np.where(still, 1, _spread(ours - theirs) / np.where(still, 1, apart))
        nearer[nearer <= EQUAL] = np.nan
        low = a - b - nearer * np.hypot(a - a_low, b_high - b)
        found[measure] = np.column_stack([a - b, low, a - b + nearer * np.hypot(a_high - a, b - b_low)])
        if not np.array_equal(first.pooled[measure], second.pooled[measure]):
            found[measure][-1] = np.nan
    return {measure: found[measure] for measure in first.measured if measure in found}


def _bounded(columns: Columns, means: int) -> Floats:
    """[C, 3], of which so many in front of the last are means; see `intervals`."""
    value, draws, support = columns.values[0], columns.values[1:], columns.support
    low, high = np.full((2, len(value)), np.nan)
    if len(draws):
        usable = (np.isnan(draws).mean(axis=0) <= 1 - LEVEL) & (support >= FEWEST) & ~np.isnan(value)
        extreme = usable & ((value < EQUAL) | (value > 1 - EQUAL))
        open_end = ((1 - LEVEL) / 2) ** (1 / support[extreme])
        low[extreme] = np.where(value[extreme] > EQUAL, open_end, 0)
        high[extreme] = np.where(value[extreme] > EQUAL, 1, 1 - open_end)

        inside = usable & ~extreme & (columns.error > EQUAL)
        averaged = np.isin(np.arange(len(value)), len(value) - 2 - np.arange(means))
        reach = np.zeros(len(value))
        reach[inside] = _student(columns.freedom[inside]) * columns.error[inside]
        for chosen, scale in ((inside & ~averaged, _logit), (inside & averaged, _angle)):
            low[chosen], high[chosen] = scale(value[chosen], reach[chosen])
    return np.column_stack([value, low, high])


def _logit(value: Floats, reach: Floats) -> tuple[Floats, Floats]:
    """The value minus and plus the reach, by the delta method on the scale log(v / (1 - v))."""
    middle, reach = np.log(value / (1 - value)), reach / (value * (1 - value))
    return 1 / (1 + np.exp(reach - middle)), 1 / (1 + np.exp(-reach - middle))


def _angle(value: Floats, reach: Floats) -> tuple[Floats, Floats]:
    """The same on the scale arcsin sqrt(v), which ends where the values do."""
    middle, reach = np.arcsin(np.sqrt(value)), reach / (2 * np.sqrt(value * (1 - value)))
    return np.sin(np.maximum(middle - reach, 0)) ** 2, np.sin(np.minimum(middle + reach, np.pi / 2)) ** 2


def _mean(values: Floats, support: Floats, together: float) -> Columns:
    """The mean of labels.

    A draw without one of them takes that one as it is on the data. A label that does not vary, or rests on
    too few groups to tell, is as much in doubt as n groups that are all right leave it: as Beta(n + 1, 1).

    Args:
        values: [1 + B, K], of the labels.
        support: [K], how many groups each rests on.
        together: groups that they rest on together.

    Returns:
        One column.
    """
    if not len(support) or np.isnan(values[0]).any():
        return Columns(np.full((len(values), 1), np.nan), *np.full((3, 1), np.nan))
    draws, n = np.where(np.isnan(values), values[0], values), support
    scaled = values[0] + (draws - values[0]) * np.sqrt(n / np.maximum(n - 1, 1))
    own = _spread(scaled) ** 2
    untold = (n < TELLING) | (own <= EQUAL**2)
    doubt = np.where(untold, (n + 1) / ((n + 2) ** 2 * (n + 3)), 0)
    told = np.where(untold, 0, own)
    spread = _spread(np.where(untold, values[0], scaled).mean(axis=1, keepdims=True))
    error = np.hypot(spread, np.sqrt(doubt.sum()) / len(n))
    apart = (told + doubt).sum()  # of the sum, if labels varied independently of each other
    freedom = apart**2 / max((told**2 / np.maximum(n - 1, 1)).sum(), EQUAL**2)
    freedom *= np.minimum(1, apart / np.maximum((len(n) * error) ** 2, EQUAL**2))
    return Columns(
        draws.mean(axis=1, keepdims=True),
        error,
        np.clip(freedom, FEWEST - 1, together - 1),
        np.array([together]),
    )


def _spread(values: Floats) -> Floats:
    """[1 + B, C] -> [C], standard deviation over the draws that define the measure; NaN without any."""
    draws = values[1:]
    known = ~np.isnan(draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        count = known.sum(axis=0)
        mean = np.where(known, draws, 0).sum(axis=0) / count
        return np.asarray(np.sqrt(np.where(known, (draws - mean) ** 2, 0).sum(axis=0) / count))


def _student(freedom: Floats) -> Floats:
    """The t that cuts off 2.5 %, to .001 from 9 degrees of freedom (Abramowitz and Stegun 1972, 26.7.5)."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return np.asarray(
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


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
