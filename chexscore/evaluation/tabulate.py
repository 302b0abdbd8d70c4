"""The tables that `eval` prints, for a terminal of 80 columns."""

import math
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chexscore.evaluation.evaluate import HALF, Evaluation, Group
from chexscore.intervals import Interval
from chexscore.samples import MACRO, MICRO

__all__ = ["print_evaluation"]

POINT_MEASURES = {
    "sensitivity": "sens.",
    "specificity": "spec.",
    "ppv": "PPV",
    "npv": "NPV",
    "accuracy": "acc.",
    "f1": "F1",
}
"""Measure -> heading."""


def print_evaluation(evaluation: Evaluation, about: Mapping[str, str]) -> None:
    """Prints the tables, and on standard error what was evaluated and what did not take part in it."""
    console = Console(highlight=False)
    console.print(_scores(evaluation))
    console.print(_accuracy(evaluation), soft_wrap=True)
    console.print(_at_point(evaluation))
    if evaluation.subgroups:
        console.print(_subgroups(evaluation))
        _print_marked(evaluation, console)
    if evaluation.other is not None and evaluation.difference is not None:
        console.print(_against(evaluation.everyone, evaluation.other, evaluation.difference))
    words = Console(stderr=True, highlight=False, soft_wrap=True)
    words.print(f"{about['evaluated']} evaluated")
    for name in ("left out", "only the model has", "only the labels have", "only the first model has"):
        if name in about:
            words.print(f"{name}: {escape(about[name])}")
    if evaluation.assumed:
        words.print("no operating points are known for some label; give --model")


def _scores(evaluation: Evaluation) -> Table:
    table = _table("label", "n", "pos.", "AUC (95 %)", "AP", "prev.", "Brier", "ECE")
    group = evaluation.everyone
    for label in group.columns:
        if label == MACRO:
            table.add_section()
        areas = [group.get(measure, label).value for measure in ("average_precision", "prevalence")]
        errors = [group.get(measure, label).value for measure in ("brier", "calibration_error")]
        table.add_row(
            escape(label),
            str(group.known[label]),
            str(group.positives[label]),
            _interval(group.get("auc", label)),
            *map(_number, (*areas, *errors)),
        )
    guess = evaluation.guess
    values = [guess.get(measure, MICRO).value for measure in ("average_precision", "prevalence", "brier")]
    table.add_row("guess (micro)", "", "", _interval(guess.get("auc", MICRO)), *map(_number, values), "")
    return table


def _accuracy(evaluation: Evaluation) -> str:
    ours, guess = (group.get(f"accuracy@{HALF}", MICRO) for group in (evaluation.everyone, evaluation.guess))
    return f"Right of all labels at {HALF}: {_interval(ours)}; a guess by frequency: {_number(guess.value)}\n"


def _at_point(evaluation: Evaluation) -> Table:
    """The first operating point; the files have all of them."""
    point, *others = evaluation.points
    table = _table("label", f"at {point}", *POINT_MEASURES.values())
    thresholds = dict(zip(evaluation.cases.names, evaluation.points[point], strict=True))
    for label in evaluation.everyone.columns:
        if label == MACRO:
            table.add_section()
        found = [evaluation.everyone.get(f"{measure}@{point}", label).value for measure in POINT_MEASURES]
        threshold = thresholds.get(label, math.nan)
        table.add_row(escape(label), _number(threshold), *map(_number, found))
    if others:
        table.caption = f"-o and --report also have the points {', '.join(map(escape, others))}."
    return table


def _subgroups(evaluation: Evaluation) -> Table:
    table = _table("subgroup", "n", "macro AUC (95 %)", "minus the rest", "")
    for subgroup in evaluation.subgroups:
        difference = subgroup.to_the_rest.get("auc", MACRO)
        table.add_row(
            escape(subgroup.group.name),
            str(subgroup.group.cases),
            _interval(subgroup.group.get("auc", MACRO)),
            _difference(difference),
            "*" if difference.excludes_zero else "",
        )
    return table


def _print_marked(evaluation: Evaluation, console: Console) -> None:
    """Label by label, what differs between a subgroup and the rest."""
    point = next(iter(evaluation.points))
    measures = {"auc": "AUC", f"sensitivity@{point}": "sensitivity", f"specificity@{point}": "specificity"}
    for subgroup in evaluation.subgroups:
        for label in evaluation.cases.names:
            for measure, name in measures.items():
                found = subgroup.to_the_rest.get(measure, label)
                if found.excludes_zero:
                    words = f"{subgroup.group.name}: {name} of {label} {_difference(found)}"
                    console.print(escape(words), soft_wrap=True)
    console.print(
        "* and below it: the interval excludes zero, as 1 in 20 and more do by chance alone\n", soft_wrap=True
    )


def _against(ours: Group, other: Group, difference: Group) -> Table:
    table = _table("label", "AUC", "other", "difference (95 %)", "")
    for label in ours.columns:
        if label == MACRO:
            table.add_section()
        found = difference.get("auc", label)
        areas = (group.get("auc", label).value for group in (ours, other))
        table.add_row(
            escape(label), *map(_number, areas), _difference(found), "*" if found.excludes_zero else ""
        )
    table.caption = "* the interval excludes zero"
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
    for position, heading in enumerate(headings):
        table.add_column(
            escape(heading),
            overflow="fold",
            justify="right" if position else "left",
            no_wrap=position > 0,
        )
    return table


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _interval(found: Interval) -> str:
    if math.isnan(found.low):
        return _number(found.value)
    return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})"


def _difference(found: Interval) -> str:
    if math.isnan(found.value):
        return ""
    bounds = "" if math.isnan(found.low) else f" ({found.low:+.3f} to {found.high:+.3f})"
    return f"{found.value:+.3f}{bounds}"
