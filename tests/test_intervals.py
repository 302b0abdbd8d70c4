"""Measures under resampling equal those of scikit-learn on rows that are really repeated."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn import metrics as sklearn

from chexscore.intervals import FEWEST, Draws, Interval, bootstrap, differences, intervals, number
from chexscore.samples import Sample

NAMES = ("Common", "Rare", "Unknown at times", "Never")
THRESHOLDS = (0.5, 0.3, 0.7, 0.5)

Floats = NDArray[np.float64]


def data(seed: int, images: int = 300, patients: int = 90) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Ties, unknown labels, a label without positives, patients with several images."""
    random = np.random.default_rng(seed)
    labels = (random.random((images, 4)) < (0.4, 0.05, 0.3, 0)).astype(float)
    scores = (1 / (1 + np.exp(-random.normal(labels)))).round(2)
    labels[random.random(images) < 0.3, 2] = np.nan
    return labels, scores, random.integers(patients, size=images)


def plain(labels: Floats, scores: Floats, threshold: float) -> dict[str, float]:
    """The measures of one label by scikit-learn."""
    known = ~np.isnan(labels)
    labels, scores = labels[known], scores[known]
    called = (scores >= threshold).astype(int)
    bins = np.minimum((scores * 10 + 1e-9).astype(int), 9)
    found = {
        "prevalence": labels.mean(),
        "brier": np.mean((labels - scores) ** 2),
        "accuracy": sklearn.accuracy_score(labels, called),
        "calibration_error": sum(
            (bins == number).mean() * abs(labels[bins == number].mean() - scores[bins == number].mean())
            for number in np.unique(bins)
        ),
    }
    if labels.any():
        found["sensitivity"] = sklearn.recall_score(labels, called)
    if not labels.all():
        found["specificity"] = sklearn.recall_score(1 - labels, 1 - called)
    if labels.any() and not labels.all():
        found |= {
            "auc": sklearn.roc_auc_score(labels, scores),
            "average_precision": sklearn.average_precision_score(labels, scores),
            "ppv": sklearn.precision_score(labels, called, zero_division=np.nan),
            "npv": sklearn.precision_score(1 - labels, 1 - called, zero_division=np.nan),
            "f1": sklearn.f1_score(labels, called),
        }
    return found


def drawn(
    labels: Floats,
    scores: Floats,
    groups: ArrayLike,
    names: Sequence[str] = NAMES,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> Draws:
    sample = Sample(labels, scores, number(groups), names)
    return bootstrap([sample], resamples=resamples, seed=seed)[0]


def get(measures: dict[str, Floats], draws: Draws, measure: str, name: str) -> Interval:
    return Interval(*map(float, measures[measure][draws.names.index(name)]))


def auc(draws: Draws, name: str) -> Interval:
    return get(intervals(draws), draws, "auc", name)


@pytest.mark.parametrize("seed", range(2))
def test_resamples_are_those_of_a_plain_loop_over_scikit_learn(seed: int) -> None:
    labels, scores, patients = data(seed)
    groups = number(patients)
    sample = Sample(labels, scores, groups, NAMES, {"": THRESHOLDS}, {"macro": range(4), "two": (0, 1)})
    (draws,) = bootstrap([sample], resamples=10, seed=seed)
    random = np.random.default_rng(seed)
    size = groups.max() + 1
    of_data: dict[str, Floats] = {}
    for draw in range(11):
        kept = random.integers(size, size=size) if draw else np.arange(size)
        rows = np.concatenate([np.flatnonzero(groups == group) for group in kept])
        each = [plain(labels[rows, column], scores[rows, column], THRESHOLDS[column]) for column in range(4)]
        called = (scores >= THRESHOLDS)[rows].ravel()
        micro = plain(labels[rows].ravel(), scores[rows].ravel(), 0.5)
        at_own_thresholds = plain(labels[rows].ravel(), called.astype(float), 0.5)
        for measure in draws.measured:
            expected = np.array([one.get(measure, math.nan) for one in each])
            # A mean is over the labels with both classes; what a draw lacks is as it is on the data.
            on_data = of_data.setdefault(measure, expected)
            filled = np.where(np.isnan(expected), on_data, expected)[:3]
            means = [filled.mean(), filled[:2].mean()]
            areas = ("auc", "average_precision", "brier", "calibration_error", "prevalence")
            pooled = (micro if measure in areas else at_own_thresholds)[measure]
            values = draws.columns(measure).values
            assert values[draw] == pytest.approx([*expected, *means, pooled], abs=1e-12, nan_ok=True), measure


def test_a_mean_has_bounds_where_one_of_its_labels_is_rare() -> None:
    labels, scores, patients = data(0)
    labels[:, 1] = 0
    labels[:2, 1] = 1
    draws = drawn(labels, scores, patients)
    values, error, freedom, support = draws.columns("auc")
    rare, macro, micro = values[:, 1], values[:, 4], values[:, 5]
    lacks = np.isnan(rare)
    assert 0.05 < lacks.mean() < 0.5
    assert not np.isnan(micro).any()
    assert macro[lacks] == pytest.approx(
        np.where(np.isnan(values), values[0], values)[lacks, :3].mean(axis=1)
    )
    assert math.isnan(auc(draws, "Rare").low)
    mean = auc(draws, "macro")
    assert 0 < mean.low < mean.value < mean.high < 1
    # Two patients do not tell how much their label varies: as much as two that are right leave open.
    groups = np.array([len(set(patients[labels[:, column] == 1])) for column in (0, 2)])
    away = np.nan_to_num(values[1:, [0, 2]] - values[0, [0, 2]]) * np.sqrt(groups / (groups - 1)) / 3
    assert error[4] ** 2 == pytest.approx(away.sum(axis=1).var() + stats.beta(3, 1).var() / 3**2)
    assert FEWEST - 1 < freedom[4] < support[4] == len(set(patients[(labels == 1).any(axis=1)]))
    angles = [math.asin(math.sqrt(bound)) for bound in mean]
    reach = stats.t(freedom[4]).ppf(0.975) * error[4] / math.sqrt(4 * mean.value * (1 - mean.value))
    assert np.diff(angles) == pytest.approx([-reach, 2 * reach], rel=1e-4)
    one = draws.columns("auc", np.array([True, False, False, False]))
    for part in one[:3]:  # a mean of one label is that label
        assert part[..., 4] == pytest.approx(part[..., 0])


def test_a_mean_does_not_rest_on_patients_of_labels_that_it_leaves_out() -> None:
    labels, scores = perfect(3)
    labels, scores = np.repeat(labels, 4, axis=1), np.repeat(scores, 4, axis=1)
    labels[6:, :3] = math.nan
    labels[:, 3] = 1  # has no AUC, and is without a threshold at the point
    sample = Sample(labels, scores, np.arange(12), "ABCD", {"low": [0.5, 0.5, 0.5, math.nan]})
    (draws,) = bootstrap([sample], resamples=200)
    for measure, patients in {"auc": 3, "average_precision": 3, "f1@low": 3, "accuracy@low": 6}.items():
        for over in (None, np.array([True, True, False, True])):
            assert draws.columns(measure, over).support[4] == patients, measure
        found = get(intervals(draws), draws, measure, "macro")
        assert (found.value, math.isnan(found.low)) == (1, True), "of the same patients three times"
    parts, scores = np.full((60, 2), math.nan), np.repeat([0.9, 0.1], 30)[:, None].repeat(2, axis=1)
    parts[:15, 0] = parts[15:30, 1] = 1
    parts[30:] = 0
    (apart,) = bootstrap([Sample(parts, scores, np.arange(60), "AB")], resamples=200)
    both, one = (apart.columns("auc", over).support[2] for over in (None, np.array([True, False])))
    assert (both, one) == (30, 15), "a part of the labels rests on its own patients"
    pooled = [draws.columns(f"{measure}@low").support[-1] for measure in ("sensitivity", "accuracy")]
    assert pooled == [3, 6], "of the one label with that point"


def test_each_measure_rests_on_the_cases_that_it_is_of() -> None:
    labels = np.array([1, 1, 0, 0, 0, 0, 0, 0, math.nan])[:, None]
    scores = np.array([0.9, 0.2, 0.8, 0.7, 0.1, 0.1, 0.1, 0.1, 0.9])[:, None]
    sample = Sample(labels, scores, np.arange(9), "A", {"p": [0.5]})
    assert {measure: int(groups[0]) for measure, groups in sample.support.items()} == {
        **dict.fromkeys(("auc", "average_precision", "sensitivity@p", "f1@p"), 2),
        **dict.fromkeys(("prevalence", "brier", "calibration_error", "accuracy@p"), 8),
        "specificity@p": 6,
        "ppv@p": 3,
        "npv@p": 5,
    }


def test_a_mean_is_over_the_same_labels_in_all_measures() -> None:
    labels, scores, patients = data(0)
    sample = Sample(
        labels,
        scores,
        number(patients),
        NAMES,
        {"p": [0.5, math.nan, 1.1, 0.5]},
        {"macro": range(4), "two": (0, 3)},
    )
    (draws,) = bootstrap([sample], resamples=0)
    found = {measure: draws.columns(measure).values[0] for measure in draws.measured}
    for measure, over in (
        ("prevalence", [0, 1, 2]),
        ("brier", [0, 1, 2]),
        ("accuracy@p", [0, 2]),
        ("f1@p", [0, 2]),
    ):
        assert found[measure][4] == pytest.approx(found[measure][over].mean()), measure
        assert math.isnan(found[measure][5]), "a mean of labels that are named is over all of these"
    assert math.isnan(found["ppv@p"][4]), "nothing of the third label is called"
    called = scores[:, [0, 2, 3]] >= (0.5, 1.1, 0.5)  # the second has no such point
    known = ~np.isnan(labels[:, [0, 2, 3]])
    right = (called == labels[:, [0, 2, 3]])[known].mean()
    assert found["accuracy@p"][6] == pytest.approx(right)


def test_bounds_are_student_s_t_on_the_logit_scale() -> None:
    labels, scores, patients = data(7)
    draws = drawn(labels, scores, [f"p{patient}" for patient in patients])
    found = auc(draws, "Common")
    (value, *others), groups = draws.measured["auc"][:, 0], len(set(patients[labels[:, 0] == 1]))
    error = np.std(others) * math.sqrt(groups / (groups - 1)) / (value * (1 - value))
    reach = stats.t(groups - 1).ppf(0.975) * error
    logits = [math.log(bound / (1 - bound)) for bound in found]
    assert np.diff(logits) == pytest.approx([-reach, 2 * reach], rel=1e-4)
    measures = intervals(draws)
    for measure in ("auc", "average_precision", "brier"):
        bounds = get(measures, draws, measure, "Common")
        assert 0 < bounds.low < bounds.value < bounds.high < 1
    assert all(math.isnan(part) for part in auc(draws, "Never"))


def test_the_same_seed_draws_the_same_whatever_comes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, patients = data(1)
    first = intervals(drawn(labels, scores, patients, resamples=50))
    monkeypatch.setattr("chexscore.intervals.CELLS", 5000)
    assert str(intervals(drawn(labels, scores, patients, resamples=50))) == str(first)
    assert str(intervals(drawn(labels, scores, patients, resamples=50, seed=1))) != str(first)


def test_patients_not_images_decide_how_wide_an_interval_is() -> None:
    labels, scores, patients = data(2, images=100)
    nine = [np.repeat(array, 9, axis=0) for array in (labels, scores)]
    once = auc(drawn(labels, scores, patients), "Common")
    nine_times = auc(drawn(nine[0], nine[1], np.repeat(patients, 9)), "Common")
    assert nine_times == pytest.approx(once)
    images_alone = auc(drawn(nine[0], nine[1], range(900)), "Common")
    assert images_alone.high - images_alone.low < 0.5 * (once.high - once.low)


@pytest.mark.parametrize("side", [1, 0])
def test_no_bounds_are_given_where_too_few_patients_have_a_class(side: int) -> None:
    for patients, known in ((FEWEST - 1, False), (FEWEST, True)):
        labels = np.full((120, 1), 1.0 - side)
        labels[: 2 * patients] = side  # of two images each
        scores = np.random.default_rng(0).random((120, 1))
        sample = Sample(labels, scores, np.arange(120) // 2, ["A"], {"half": [0.5]})
        (draws,) = bootstrap([sample], resamples=50)
        found = {measure: get(intervals(draws), draws, measure, "A") for measure in draws.measured}
        for measure in ("auc", "average_precision", "sensitivity@half" if side else "specificity@half"):
            assert math.isnan(found[measure].low) is not known, measure
        for measure in ("brier", "accuracy@half", "prevalence"):
            assert found[measure].low < found[measure].high


def perfect(groups: int) -> tuple[Floats, Floats]:
    labels = np.repeat([1.0, 0.0], [groups, 3 * groups])[:, None]
    return labels, np.where(labels == 1, 0.9, 0.1) + np.linspace(0, 0.05, 4 * groups)[:, None]


def test_what_is_right_in_every_draw_is_not_certain() -> None:
    labels, scores = perfect(20)
    found = auc(drawn(labels, scores, range(80), ["A"]), "A")
    exact = stats.binomtest(20, 20).proportion_ci(method="exact")
    assert found == pytest.approx((1, exact.low, 1))
    assert auc(drawn(labels, 1 - scores, range(80), ["A"]), "A") == pytest.approx((0, 0, 1 - exact.low))
    few = Sample(labels, scores, np.arange(80), ["A"], {"high": [0.909]})
    (draws,) = bootstrap([few], resamples=500)
    ppv = get(intervals(draws), draws, "ppv@high", "A")
    assert ppv.value == 1
    assert math.isnan(ppv.low), "it rests on the few that are called"


def test_differences_are_paired() -> None:
    labels, scores, patients = data(3)
    worse = np.clip(scores + np.random.default_rng(0).normal(0, 0.05, scores.shape), 0, 1)
    first, second, again = bootstrap(
        [Sample(labels, each, patients, NAMES) for each in (scores, worse, scores)]
    )
    found, same = (get(differences(first, other), first, "auc", "Common") for other in (second, again))
    one, two = auc(first, "Common"), auc(second, "Common")
    assert found.value == pytest.approx(one.value - two.value)
    assert found.high - found.low < 0.5 * (one.high - one.low)
    draws = first.measured["auc"][1:, 0] - second.measured["auc"][1:, 0]
    assert found.high - found.low == pytest.approx(2 * 1.96 * draws.std(), rel=0.1)
    assert same.value == 0
    assert math.isnan(same.low), "a model and itself do not differ, whatever is drawn"


def test_a_side_that_does_not_vary_keeps_its_doubt() -> None:
    labels, scores = perfect(20)
    fair = np.where(np.arange(80)[:, None] % 4, scores, 0.12)
    right, wrong, well = bootstrap(
        [Sample(labels, each, np.arange(80), ["A"]) for each in (scores, 1 - scores, fair)], resamples=200
    )
    apart = get(differences(right, wrong), right, "auc", "A")
    assert (apart.value, apart.excludes_zero) == (1, True)
    assert 0.5 < apart.low < 1
    same = get(differences(right, right), right, "auc", "A")
    assert same.low < same.value < same.high
    near = get(differences(right, well), right, "auc", "A")
    drawn_alone = np.quantile(1 - well.measured["auc"][1:, 0], 0.025)
    assert near.low < 0 < drawn_alone, "percentiles would know nothing of what an AUC of 1 leaves open"


def test_a_mean_is_compared_over_labels_that_both_sides_define() -> None:
    labels, scores, patients = data(4)
    other = labels.copy()
    other[:, 1] = np.nan
    first, second = bootstrap(
        [Sample(each, scores, patients, NAMES) for each in (labels, other)], resamples=20
    )
    assert get(differences(first, second), first, "auc", "macro").value == 0
    assert auc(first, "macro").value != auc(second, "macro").value


def test_micro_values_over_different_labels_are_not_compared() -> None:
    labels, scores, patients = data(5)
    points = [{"p": [0.5, math.nan], "q": [0.5, 0.4]}, {"p": [math.nan, 0.5], "q": [0.6, 0.5]}]
    both = (labels[:, [0, 2]], scores[:, [0, 2]], number(patients), "AB")
    first, second = bootstrap([Sample(*both, each) for each in points], resamples=50)
    apart, whole = (get(differences(first, second), first, f"specificity@{point}", "micro") for point in "pq")
    assert all(map(math.isnan, apart)), "it would be that of the labels"
    assert whole.low < whole.value < whole.high
    same = get(differences(first, first), first, "specificity@p", "micro")
    assert same.value == 0


def test_intervals_cover_the_truth() -> None:
    """Small sets; `python -m tests.bench.evaluation coverage` has 500 of each size."""
    assert 88 <= sum(covers(seed, ill=30, well=50, resamples=200) for seed in range(100)) <= 99
    assert 88 <= sum(covers(seed, ill=10, well=50, resamples=200) for seed in range(100)) <= 99
    assert 88 <= sum(mean_covers(seed, ill=(2, 5, 5, 9, 20), resamples=200) for seed in range(100)) <= 99


def simulated(
    random: np.random.Generator, ill: Sequence[int], patients: int, apart: float
) -> tuple[Floats, Floats, NDArray[np.int64], float]:
    """Labels, scores and patients of 1 to 3 images each, and the AUC that they are drawn with.

    Of each label the next patients are ill. Scores are Phi(N(apart * label, 1)), half of the variance common
    to a patient's images, and half of it to all labels: AUC = Phi(apart / sqrt 2).
    """
    groups = np.repeat(np.arange(patients), random.integers(1, 4, patients))
    first = np.cumsum([0, *ill[:-1]])
    labels = ((groups[:, None] - first) % patients < ill).astype(float)
    common, own = (random.normal(size=(size, len(ill))) for size in (patients, groups.size))
    for noise in (common, own):
        noise[:, 1:] = (noise[:, 1:] + noise[:, :1]) / math.sqrt(2)
    raw = apart * labels + (common[groups] + own) / math.sqrt(2)
    return labels, 1 / (1 + np.exp(-raw)), groups, 0.5 * (1 + math.erf(apart / 2))


def covers(
    seed: int, *, ill: int, well: int, resamples: int, apart: float = 1.0, less: float | None = None
) -> bool:
    """Whether an interval has the AUC that a set was simulated with.

    With `less` it is the interval of the difference to as many other patients, simulated with that.
    """
    random = np.random.default_rng(seed)
    samples, truths = [], []
    for place, distance in enumerate((apart,) if less is None else (apart, less)):
        labels, scores, groups, truth = simulated(random, [ill], ill + well, distance)
        samples.append(Sample(labels, scores, groups + place * (ill + well), ["Ill"]))
        truths.append(truth)
    draws = bootstrap(samples, resamples=resamples, seed=seed)
    found = intervals(draws[0]) if less is None else differences(draws[0], draws[1])
    _, low, high = get(found, draws[0], "auc", "Ill")
    return low <= truths[0] - (0 if less is None else truths[1]) <= high


def mean_covers(
    seed: int, *, ill: Sequence[int], resamples: int, patients: int = 100, apart: float = 1.0
) -> bool:
    """The same of the macro mean, of labels with so many patients each."""
    labels, scores, groups, truth = simulated(np.random.default_rng(seed), ill, patients, apart)
    (draws,) = bootstrap(
        [Sample(labels, scores, groups, list(map(str, range(len(ill)))))], resamples=resamples
    )
    _, low, high = auc(draws, "macro")
    return low <= truth <= high
