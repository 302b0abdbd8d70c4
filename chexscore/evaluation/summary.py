"""An evaluation as data: a tidy table, a line for each label, group and metric."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from chexscore import __version__
from chexscore.evaluation.cases import Cases, Protocol
from chexscore.evaluation.figures import lacking_for_competition, left_out_of_means, without_mean
from chexscore.evaluation.points import DEFAULT as DEFAULT_POINT
from chexscore.evaluation.results import COMPETITION, Evaluation, Group
from chexscore.intervals import FEWEST
from chexscore.labels import DEFAULT, Policies
from chexscore.messages import counted
from chexscore.samples import MACRO, MICRO

__all__ = ["CAUTION", "COLUMNS", "GUESS", "UNKNOWN", "describe", "rows", "to_csv", "to_json"]

COLUMNS = ("label", "group", "metric", "value", "low", "high", "n")

GUESS = "constant guess"
"""Group of the rows that say what giving every case the frequency of the label reaches."""


UNKNOWN = "not known"
"""How the name of a model begins that no record tells."""

Points = Mapping[str, Sequence[float]]
"""As in `Evaluation`: name -> threshold for each label."""

CAUTION = "caution"
FEW = 20
"""Patients, or what else is drawn, below which the whole evaluation gets a word of caution."""


def describe(
    evaluation: Evaluation,
    predictions: str,
    model: Mapping[str, str],
    against: str | None = None,
    other_model: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """What was evaluated and how, name -> text.

    Args:
        evaluation: what was found.
        predictions: the CSV.
        model: name, version and sha256, as far as they are known; see `points_and_model`.
        against: the CSV of the other model.
        other_model: as `model`.
    """
    cases, protocol = evaluation.cases, evaluation.protocol
    several = {"image": "images", "study": "studies", "patient": "patients"}
    draws = several.get(cases.group, f"values of {cases.group}")
    count = counted(len(cases.labels), several[protocol.by])
    if cases.group != protocol.by:
        count += f" of {counted(len(set(cases.groups)), draws)}"
    found = {"predictions": predictions, **_of_model("model", model)}
    if against is not None:
        found |= _of_other(evaluation, against, other_model or {})
    found |= {"labels": f"{cases.table.source} (layout: {cases.table.layout})", "evaluated": count}
    if protocol.resamples and (number := len(set(cases.groups))) < FEW:
        found[CAUTION] = (
            f"only {counted(number, draws)}: the intervals are rough, and there are none below {FEWEST}"
        )
    found |= _of_patients(cases, protocol)
    if cases.left_over:
        found["left out"] = "; ".join(counted(number, what) for what, number in cases.left_over.items())
    if cases.only_predicted:
        found["only the model has"] = ", ".join(cases.only_predicted)
    if cases.only_labelled:
        found["only the labels have"] = ", ".join(cases.only_labelled)
    if cases.only_ours:
        found["only the first model has"] = ", ".join(cases.only_ours)
    found |= _of_means(evaluation)
    found["uncertain labels"] = _taken(protocol.uncertain)
    found["blank labels"] = _taken(protocol.blank)
    if protocol.by == "study":
        found["score of a study"] = {"max": "the largest of its views", "mean": "the mean of its views"}[
            protocol.views
        ]
        found["label of a study"] = "positive where any view is" + (
            f"; the views of {counted(cases.disagreeing, 'studies')} disagree" if cases.disagreeing else ""
        )
    found["intervals"] = (
        f"95 %, from {protocol.resamples:,} draws of {draws}; none where fewer than {FEWEST} {draws} have a "
        "class that a measure needs (of a mean, for any of its labels)"
        if protocol.resamples
        else "none"
    )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    found["default points"] = _defaults(evaluation)
    return found | {"made by": f"chexscore {__version__}, {made}"}


def rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """The table, a dict of COLUMNS for each line; what is not defined is NaN.

    `metric` is a measure such as "auc", one at an operating point such as "sensitivity@youden", a count such
    as "positives" or "true_positives@youden", "threshold@youden", or of a macro mean "labels" and
    "labels@youden", how many it is over.
    `group` is "all", a subgroup such as "Sex=F", a difference such as "Sex=F minus the rest", "Sex: all" (the
    macro mean of all over the labels that it is over in the subgroups), the CSV of the other model, or
    "constant guess". `n` counts the cases with a known
    label; for the label "micro" it counts labels, at an operating point of those that have it.
    """
    everyone, names = evaluation.everyone, evaluation.cases.names
    yield from _thresholds(everyone, names, evaluation.points)
    yield from _rows_of(everyone, evaluation.points)
    for label in (MACRO, MICRO):
        for measure in evaluation.guess.measures:
            yield _row(label, GUESS, measure, evaluation.guess.get(measure, label), everyone.known[label])
    for split in evaluation.splits:
        yield from _rows_of(split.everyone, evaluation.points, only=MACRO)
        for subgroup in split.subgroups:
            yield from _rows_of(subgroup.group, evaluation.points)
            if subgroup.to_the_rest is not None:
                yield from _rows_of(subgroup.to_the_rest, evaluation.points, counts=False)
    if evaluation.other is not None and evaluation.difference is not None:
        yield from _thresholds(evaluation.other, names, evaluation.other_points)
        yield from _rows_of(evaluation.other, evaluation.other_points)
        yield from _rows_of(evaluation.difference, evaluation.points, counts=False)


def to_csv(evaluation: Evaluation) -> str:
    """The table as CSV, six decimals, thresholds seven; cells that are not defined stay empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    for row in rows(evaluation):
        # A threshold lies midway between two scores of six decimals.
        decimals = 7 if row["metric"].startswith("threshold@") else 6
        numbers = {name: _cell(row[name], decimals) for name in ("value", "low", "high")}
        table.writerow(row | numbers)
    return text.getvalue()


def to_json(evaluation: Evaluation, about: Mapping[str, str]) -> str:
    """The same table as JSON, and in front of it what was evaluated; what is not defined is null."""
    table = [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in row.items()
        }
        for row in rows(evaluation)
    ]
    return json.dumps({"evaluated": dict(about), "table": table}, indent=1) + "\n"


def _thresholds(group: Group, names: Sequence[str], points: Points) -> Iterator[dict[str, Any]]:
    for point, thresholds in points.items():
        for label, threshold in zip(names, thresholds, strict=True):
            yield _row(
                label, group.name, f"threshold@{point}", (threshold, math.nan, math.nan), group.known[label]
            )


def _rows_of(
    group: Group, points: Points, *, counts: bool = True, only: str = ""
) -> Iterator[dict[str, Any]]:
    """A group's rows; `points` as in `Evaluation`, `only` one of its columns."""
    for label in [only] if only else group.columns:
        known, pooled = group.known[label], _pooled(group, label)
        if counts and label in group.positives:
            yield _row(label, group.name, "positives", (group.positives[label], math.nan, math.nan), known)
        if counts and label == MACRO:
            for metric, number in _labels_of_mean(group, points):
                yield _row(label, group.name, metric, (number, math.nan, math.nan), known)
        for point, of_columns in group.counts.items() if counts else ():
            if label in of_columns:
                for metric, number in of_columns[label]._asdict().items():
                    n = pooled.get(point, known)
                    yield _row(label, group.name, f"{metric}@{point}", (number, math.nan, math.nan), n)
        for measure in group.measures:
            n = pooled.get(measure.partition("@")[2], known)
            yield _row(label, group.name, measure, group.get(measure, label), n)


def _pooled(group: Group, label: str) -> dict[str, int]:
    """For all labels together: operating point -> how many known labels there are of those that have it."""
    return {point: sum(found[MICRO]) for point, found in group.counts.items()} if label == MICRO else {}


def _labels_of_mean(group: Group, points: Points) -> Iterator[tuple[str, int]]:
    """Over how many labels the macro means are, and at each point those that have it."""
    yield "labels", len(group.over)
    names = [label for label in group.columns if label in group.positives and label != MICRO]
    for point, thresholds in points.items():
        at_point = (label for label, cut in zip(names, thresholds, strict=True) if not math.isnan(cut))
        yield f"labels@{point}", sum(label in group.over for label in at_point)


def _row(label: str, group: str, metric: str, found: tuple[float, float, float], n: int) -> dict[str, Any]:
    return dict(zip(COLUMNS, (label, group, metric, *found, n), strict=True))


def _cell(value: float, decimals: int) -> str:
    if math.isnan(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.{decimals}f}"


def _taken(policies: Policies) -> str:
    words = {"ignore": "left out", "positive": "taken as positive", "negative": "taken as negative"}
    named = [f"; of {label} {words[policy]}" for label, policy in policies.items() if label != DEFAULT]
    return words[policies[DEFAULT]] + "".join(named)


def _of_patients(cases: Cases, protocol: Protocol) -> dict[str, str]:
    drawn = cases.group == "study" and protocol.resamples
    if cases.table.patients is None and (drawn or protocol.by == "study"):
        return {"studies": "of one name are one, because no patients are known"}
    if cases.group == "image" and protocol.group is None and protocol.resamples:
        unknown = "not known, so the intervals draw images; call their column patient, or give --group COLUMN"
        return {"patients": unknown}
    if cases.alone:
        return {"on their own": counted(cases.alone, "images whose path names no patient or study")}
    return {}


def _of_means(evaluation: Evaluation) -> dict[str, str]:
    splits = {f"macro means by {split.column}": split for split in evaluation.splits}
    lacking = {
        what: left_out_of_means(evaluation, split) for what, split in {"macro mean": None, **splits}.items()
    }
    found = {what: f"over {labels}" for what, labels in lacking.items() if labels}
    if without := lacking_for_competition(evaluation):
        found[COMPETITION] = f"no mean for want of {without}"
    empty = {
        f"no macro mean by {split.column}": without_mean(evaluation, split) for split in evaluation.splits
    }
    return found | {what: groups for what, groups in empty.items() if groups}


def _defaults(evaluation: Evaluation) -> str:
    """What the default point of each label was chosen for."""
    labels: dict[str, list[str]] = {}
    for label, point in zip(evaluation.cases.names, evaluation.defaults, strict=True):
        labels.setdefault("without a name" if point == DEFAULT_POINT else point, []).append(label)
    return "; ".join(f"{point}: {', '.join(some)}" for point, some in labels.items())


def _of_other(evaluation: Evaluation, against: str, model: Mapping[str, str]) -> dict[str, str]:
    found = {"compared with": against, **_of_model("its model", model)}
    cases = evaluation.cases
    same = cases.others is not None and np.array_equal(cases.scores, cases.others)
    found |= {"both models": "the scores are the same"} if same else {}
    if (
        evaluation.difference is not None
        and f"accuracy@{DEFAULT_POINT}" not in evaluation.difference.measures
    ):
        found["at the default"] = (
            "not compared, for the operating points of some label are known of one model alone; the record "
            "(.run.json) beside predictions has them"
        )
    apart = [
        point
        for point, thresholds in evaluation.other_points.items()
        if point in evaluation.points
        and not np.array_equal(np.isnan(thresholds), np.isnan(evaluation.points[point]))
    ]
    if apart:
        found["micro values"] = f"not compared at {', '.join(apart)}: the models have it for different labels"
    return found


def _of_model(what: str, model: Mapping[str, str]) -> dict[str, str]:
    if "sha256" not in model and "name" not in model:
        unknown = {what: f"{UNKNOWN}: no record stands beside the predictions"}
        return unknown | (
            {"operating points": f"those of {model['points']}; what made the scores is not recorded"}
            if "points" in model
            else {}
        )
    name = " ".join(model[key] for key in ("name", "version") if model.get(key))
    return {what: name, f"sha256 of {what}": model.get("sha256", UNKNOWN)}
