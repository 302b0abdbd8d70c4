"""The tables that `eval` prints, for a terminal of 80 columns."""

import math
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chexscore.evaluation.figures import POINT_MEASURES, between, chance, change, change_between, number
from chexscore.evaluation.results import HALF, Evaluation, Group
from chexscore.evaluation.summary import CAUTION
from chexscore.intervals import Interval
from chexscore.messages import visible
from chexscore.samples import MACRO, MICRO

__all__ = ["print_evaluation"]


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
    if CAUTION in about:
        words.print(f"chexscore: warning: {about[CAUTION]}")
    for name in (
        "on their own",
        "left out",
        "only the model has",
        "only the labels have",
        "only the first model has",
    ):
        if name in about:
            words.print(f"{name}: {_said(about[name])}")
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
            _said(label),
            str(group.known[label]),
            str(group.positives[label]),
            _interval(group.get("auc", label)),
            *map(number, (*areas, *errors)),
        )
    guess = evaluation.guess
    values = [guess.get(measure, MICRO).value for measure in ("average_precision", "prevalence", "brier")]
    table.add_row("guess (micro)", "", "", _interval(guess.get("auc", MICRO)), *map(number, values), "")
    return table


def _accuracy(evaluation: Evaluation) -> str:
    ours, guess = (group.get(f"accuracy@{HALF}", MICRO) for group in (evaluation.everyone, evaluation.guess))
    return f"Right of all labels at {HALF}: {_interval(ours)}; a guess by frequency: {number(guess.value)}\n"


def _at_point(evaluation: Evaluation) -> Table:
    """The first operating point; the files have all of them."""
    point, *others = evaluation.points
    table = _table("label", f"at {point}", *(short for _, short in POINT_MEASURES.values()))
    thresholds = dict(zip(evaluation.cases.names, evaluation.points[point], strict=True))
    for label in evaluation.everyone.columns:
        if label == MACRO:
            table.add_section()
        found = [evaluation.everyone.get(f"{measure}@{point}", label).value for measure in POINT_MEASURES]
        threshold = thresholds.get(label, math.nan)
        table.add_row(_said(label), number(threshold), *map(number, found))
    if others:
        table.caption = f"-o and --report also have the points {', '.join(map(_said, others))}."
    return table


def _subgroups(evaluation: Evaluation) -> Table:
    table = _table("subgroup", "n", "macro AUC (95 %)", "minus the rest", "")
    for subgroup in evaluation.subgroups:
        to_the_rest = subgroup.to_the_rest
        difference = to_the_rest.get("auc", MACRO) if to_the_rest else Interval(*[math.nan] * 3)
        table.add_row(
            _said(subgroup.group.name),
            str(subgroup.group.cases),
            _interval(subgroup.group.get("auc", MACRO)),
            _difference(difference),
            "*" if difference.excludes_zero else "",
        )
    return table


def _print_marked(evaluation: Evaluation, console: Console) -> None:
    """What differs between a subgroup and the rest, and how much of that is to be expected."""
    for subgroup, measure, column, difference in evaluation.comparisons:
        if difference.excludes_zero:
            words = f"* {subgroup.group.name}: {measure} of {column} {_difference(difference)}"
            console.print(_said(words), soft_wrap=True)
    console.print(f"{chance(evaluation)}\n")


def _against(ours: Group, other: Group, difference: Group) -> Table:
    table = _table("label", "AUC", "other", "difference (95 %)", "")
    for label in ours.columns:
        if label == MACRO:
            table.add_section()
        found = difference.get("auc", label)
        areas = (group.get("auc", label).value for group in (ours, other))
        table.add_row(
            _said(label), *map(number, areas), _difference(found), "*" if found.excludes_zero else ""
        )
    table.caption = "* the interval excludes zero"
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, caption_justify="left")
    for position, heading in enumerate(headings):
        table.add_column(
            _said(heading),
            overflow="fold",
            justify="right" if position else "left",
            no_wrap=position > 0,
        )
    return table


def _interval(found: Interval) -> str:
    bounds = between(found, "-")
    return number(found.value) + (f" ({bounds})" if bounds else "")


def _difference(found: Interval) -> str:
    bounds = change_between(found)
    return change(found) + (f" ({bounds})" if bounds else "")


def _said(words: str) -> str:
    """Words of files, made safe for the terminal."""
    return escape(visible(words))
