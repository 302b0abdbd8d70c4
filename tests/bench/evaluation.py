"""What `chexscore eval` is worth: its intervals, its cost, and another way of measuring.

python -m tests.bench.evaluation coverage                  how often an interval holds the truth
python -m tests.bench.evaluation paired                    the same of differences between two models
python -m tests.bench.evaluation size                      time and memory of 200,000 rows by 13 labels
python -m tests.bench.evaluation keras OUT.csv LABELS.csv  keras.metrics.AUC on the same predictions
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import NormalDist

import numpy as np

from chexscore import metrics
from chexscore.evaluation.cases import Protocol, read_cases
from chexscore.intervals import bootstrap, differences
from chexscore.samples import Sample
from tests.test_intervals import covers, mean_covers

SETS, ROWS, LABELS = 500, 200_000, 13

MEANS = {
    "13 labels of 200 patients, 5 to 80 positive": ((5, 8, 9, 10, 12, 15, 20, 30, 30, 40, 50, 60, 80), 200),
    "12 labels of 79 patients, 1 to 15 positive": ((1, 1, 2, 3, 4, 5, 5, 6, 7, 7, 9, 15), 79),
}
"""Name -> patients with a positive for each label, and all patients; the second like a part of NIH's data."""


def coverage() -> None:
    print(f"of {SETS} intervals hold what the sets were drawn with (AUC; difference to another such set):")
    for ill, well in ((10, 190), (30, 170), (100, 100)):
        for apart in (1.0, 2.0, 2.6):
            shares = [
                sum(
                    covers(seed, ill=ill, well=well, resamples=1000, apart=apart, less=less)
                    for seed in range(SETS)
                )
                for less in (None, 1.0)
            ]
            alone, difference = (f"{held / SETS:6.1%}" for held in shares)
            sizes = f"{ill:4} positive and {well} negative patients"
            print(f"{sizes}, AUC {_area(apart):.2f}: {alone} {difference}", flush=True)
    means_coverage()


def means_coverage() -> None:
    print("macro AUC:")
    for name, (ill, patients) in MEANS.items():
        for apart in (1.0, 2.0, 2.6):
            held = sum(
                mean_covers(seed, ill=ill, patients=patients, resamples=1000, apart=apart)
                for seed in range(SETS)
            )
            print(f"{name}, AUC {_area(apart):.2f}: {held / SETS:6.1%}", flush=True)


def paired() -> None:
    """Two models on the same patients; percentiles of the draws beside what `differences` gives."""
    print(f"of {SETS} intervals hold the difference that the sets were drawn with (ours; percentiles):")
    for ill, well in ((12, 100), (30, 100), (100, 200)):
        for apart in (1.0, 2.0, 2.6):
            for alike, less in ((0.97, 0.0), (0.8, 0.0), (0.8, 0.5)):
                distances = (apart, apart - less)
                held = [_paired_cover(seed, ill, well, distances, alike) for seed in range(SETS)]
                ours, percentiles = (f"{share:6.1%}" for share in np.mean(held, axis=0))
                areas = " and ".join(f"{_area(distance):.2f}" for distance in distances)
                print(
                    f"{ill:4} positive and {well} negative patients, AUC {areas}, correlation {alike}: "
                    f"{ours} {percentiles}",
                    flush=True,
                )


def _paired_cover(
    seed: int, ill: int, well: int, apart: tuple[float, float], alike: float
) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    """[2], whether the interval and the percentiles have the true difference of AUCs."""
    random = np.random.default_rng(seed)
    labels = np.repeat([1.0, 0.0], [ill, well])[:, None]
    noise = random.normal(size=labels.shape)
    other = alike * noise + (1 - alike**2) ** 0.5 * random.normal(size=labels.shape)
    first, second = bootstrap(
        [
            Sample(labels, 1 / (1 + np.exp(-distance * labels - each)), np.arange(ill + well), ["Ill"])
            for distance, each in zip(apart, (noise, other), strict=True)
        ],
        resamples=300,
        seed=seed,
    )
    truth = _area(apart[0]) - _area(apart[1])
    drawn = first.measured["auc"][1:, 0] - second.measured["auc"][1:, 0]
    ours = differences(first, second)["auc"][0, 1:]
    low, high = np.column_stack([ours, np.asarray(np.quantile(drawn, [0.025, 0.975]))])
    return np.asarray((low <= truth) & (truth <= high))


def _area(apart: float) -> float:
    """AUC of scores that positives have so many standard deviations higher."""
    return NormalDist().cdf(apart / 2**0.5)


def size() -> None:
    random = np.random.default_rng(0)
    names = ",".join(f"Label {number}" for number in range(LABELS))
    truth = (random.random((ROWS, LABELS)) < random.uniform(0.02, 0.4, LABELS)).astype(int)
    scores = 1 / (1 + np.exp(-random.normal(truth - 1.0)))
    with tempfile.TemporaryDirectory() as folder:
        out, labels = Path(folder) / "out.csv", Path(folder) / "labels.csv"
        paths = [f"train/patient{row // 3}/study1/view{row % 3}.jpg" for row in range(ROWS)]
        rows = zip(paths, scores, strict=True)
        lines = (f"{path},ok,{','.join(f'{score:.6f}' for score in row)},\n" for path, row in rows)
        out.write_text(f"path,status,{names},note\n" + "".join(lines))
        lines = (f"{path},{','.join(map(str, row))}\n" for path, row in zip(paths, truth, strict=True))
        labels.write_text(f"path,{names}\n" + "".join(lines))
        for resamples in ("0", "1000"):
            began = time.monotonic()
            command = ["eval", str(out), "--labels", str(labels), "--resamples", resamples, "-o", "-"]
            subprocess.run(
                [sys.executable, "-m", "chexscore", *command], check=True, stdout=subprocess.DEVNULL
            )
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            print(
                f"{ROWS:,} rows x {LABELS} labels, {resamples} draws: {time.monotonic() - began:.1f} s, "
                f"{used.ru_utime + used.ru_stime:.1f} s of processor so far, {used.ru_maxrss / 1024:.0f} MiB"
            )


def keras(predictions: str, labels: str) -> None:
    import keras as library

    cases = read_cases(
        predictions, labels, Protocol(uncertain={"default": "negative"}, blank={"default": "negative"})
    )
    truth, scores = cases.labels.ravel(), cases.scores.ravel()
    theirs = library.metrics.AUC()
    theirs.update_state(truth, scores)
    exact = metrics.auroc_micro(cases.labels, cases.scores)
    print(f"micro AUC of {len(cases.labels)} images: exact {exact:.6f}, keras {float(theirs.result()):.6f}")
    print(f"macro AUC: {metrics.auroc_macro(cases.labels, cases.scores):.6f}")
    guess = np.broadcast_to(cases.labels.mean(axis=0), cases.labels.shape)
    print(f"micro AUC of a constant guess: {metrics.auroc_micro(cases.labels, guess):.6f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("coverage", "paired", "size", "keras"))
    parser.add_argument("files", nargs="*", metavar="CSV")
    asked = parser.parse_args()
    match asked.what:
        case "coverage":
            coverage()
        case "paired":
            paired()
        case "size":
            size()
        case "keras":
            keras(*asked.files)
