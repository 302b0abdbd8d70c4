"""The tables that `eval` prints, for a terminal of 80 columns."""

import math
from collections.abc import Iterator, Mapping
from textwrap import fill

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chexscore.evaluation.figures import (
    POINT_MEASURES,
    between,
    chance,
    change,
    change_between,
    mean_of,
    named,
    number,
    positives,
    score,
)
from chexscore.evaluation.points import DEFAULT
from chexscore.evaluation.results import COMPETITION, HALF, UNKNOWN_POINT, Evaluation, Group, Split
from chexscore.evaluation.summary import CAUTION
from chexscore.intervals import Interval
from chexscore.messages import say, visible
from chexscore.samples import MACRO, MICRO

__all__ = ["print_tables", "say_what_was_evaluated"]

SIDE_BY_SIDE, LABEL = 3, 18
"""Subgroups that 80 columns have room for, beside labels of this width."""


def print_tables(evaluation: Evaluation) -> None:
    """Prints the tables on standard output."""
    console = Console(highlight=False, emoji=False)
    console.print(_scores(evaluation))
    console.print(_accuracy(evaluation), soft_wrap=True)
    console.print(_at_point(evaluation))
    for split in evaluation.splits:
        console.print(_macro_by(evaluation, split))
        for table in _auc_by(split):
            console.print(table)
    if evaluation.splits:
        _print_marked(evaluation, console)
    if evaluation.other is not None and evaluation.difference is not None:
        console.print(_against(evaluation.everyone, evaluation.other, evaluation.difference))


def say_what_was_evaluated(evaluation: Evaluation, about: Mapping[str, str]) -> None:
    """Says on standard error how much was evaluated, and what did not take part in it."""
    say(f"{about['evaluated']} evaluated")
    if CAUTION in about:
        say(f"chexscore: warning: {about[CAUTION]}")
    by = [split.column for split in evaluation.splits]
    for name in (
        "operating points",
        "both models",
        "at the default",
        "micro values",
        "patients",
        "studies",
        "label of a study",
        "on their own",
        "left out",
        "only the model has",
        "only the labels have",
        "only the first model has",
        "macro mean",
        COMPETITION,
        *(f"macro means by {column}" for column in by),
        *(f"no macro mean by {column}" for column in by),
    ):
        if name in about:
            say(f"{name}: {about[name]}")
    if UNKNOWN_POINT in evaluation.defaults:
        say("no operating point is known for some label: 0.5 stands in for it; give --model")


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
            f"{group.known[label]:,}",
            positives(group, label),
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
    """The default point of each label; the files have all points."""
    others = [point for point in evaluation.points if point != DEFAULT]
    table = _table("label", "default point", "at", *(short for _, short in POINT_MEASURES.values()))
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    names = evaluation.cases.names
    thresholds = dict(zip(names, evaluation.points[DEFAULT], strict=True))
    chosen_for = dict(zip(names, evaluation.defaults, strict=True))
    for label in evaluation.everyone.columns:
        if label == MACRO:
            table.add_section()
        found = [evaluation.everyone.get(f"{measure}@{DEFAULT}", label).value for measure in POINT_MEASURES]
        point, threshold = chosen_for.get(label, ""), thresholds.get(label, math.nan)
        table.add_row(_said(label), _said(point), score(threshold), *map(number, found))
    table.caption = f"-o and --report also have the points {', '.join(map(_said, others))}."
    return table


def _macro_by(evaluation: Evaluation, split: Split) -> Table:
    heading = f"macro AUC (95 %)\n{mean_of(evaluation, split)}"
    table = _table(split.column, "n", heading, "minus the rest", "")
    table.add_row("all", f"{split.everyone.cases:,}", _interval(split.everyone.get("auc", MACRO)), "", "")
    table.add_section()
    for one in split.subgroups:
        difference = one.compared("auc", MACRO)
        table.add_row(
            _said(one.value),
            f"{one.group.cases:,}",
            _interval(one.group.get("auc", MACRO)),
            _difference(difference),
            "*" if difference.excludes_zero else "",
        )
    return table


def _auc_by(split: Split) -> Iterator[Table]:
    """The AUC of each label for each subgroup, as many side by side as have room."""
    for start in range(0, len(split.subgroups), SIDE_BY_SIDE):
        some = split.subgroups[start : start + SIDE_BY_SIDE]
        table = _table("AUC", *(fill(one.value, len("*0.000 (0.00-0.00)")) for one in some))
        table.columns[0].min_width = LABEL
        for label in split.everyone.columns:
            if label == MACRO:
                table.add_section()
            cells = []
            for one in some:
                marked = one.compared("auc", label).excludes_zero
                found = one.group.get("auc", label)
                bounds = "" if math.isnan(found.low) else f" ({found.low:.2f}-{found.high:.2f})"
                cells.append(f"{'*' if marked else ''}{number(found.value)}{bounds}")
            table.add_row(_said(label), *cells)
        yield table


def _print_marked(evaluation: Evaluation, console: Console) -> None:
    """What differs between a subgroup and the rest, and how much of that is to be expected."""
    for subgroup, measure, column, difference in evaluation.comparisons:
        if difference.excludes_zero:
            words = f"* {subgroup.group.name}: {named(measure)} of {column} {_difference(difference)}"
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
            "\n".join(map(_said, heading.splitlines())),
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
