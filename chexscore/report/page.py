"""An evaluation as a page to be read: one HTML file that needs nothing else, on a screen or on paper.

Long because each section of the page is a function, in the page's order.
"""

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec

import numpy as np

from chexscore.errors import UsageError
from chexscore.evaluation.figures import (
    POINT_MEASURES,
    between,
    chance,
    lacking_for_competition,
    left_out_of_means,
    named,
    number,
    positives,
    score,
)
from chexscore.evaluation.points import DEFAULT
from chexscore.evaluation.results import COMPETITION, HALF, Counts, Evaluation, Group, Split
from chexscore.evaluation.summary import CAUTION, UNKNOWN
from chexscore.messages import counted, visible
from chexscore.report.elements import below, breakable, cell, changed, compared, figure, folded, table, text
from chexscore.report.mistakes import Mistake, mistakes, thumbnail
from chexscore.samples import MACRO, MICRO

__all__ = ["check_plots", "to_html"]

AREAS = ("average_precision", "prevalence", "brier", "calibration_error")

PARTS = 2
"""Of a picture's path, those that stand below it; the whole of it shows under the mouse."""


def check_plots() -> None:
    """Raises a UsageError if the library that draws the plots is not installed."""
    if find_spec("matplotlib") is None:
        raise UsageError("--report needs matplotlib: pip install 'chexscore[report]'.")


def to_html(evaluation: Evaluation, about: Mapping[str, str], *, pictures: int = 3) -> str:
    """The page.

    Args:
        evaluation: what was found.
        about: what was evaluated, name -> text; see `chexscore.evaluation.summary.describe`.
        pictures: the most confident mistakes to show of each kind and label; images that are not there any
            more are named.
    """
    css, reading = (
        files("chexscore.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "reading.html")
    )
    unknown = about["model"].startswith(UNKNOWN)
    caution = about.get(CAUTION, "")
    title = f"Evaluation of {about['predictions' if unknown else 'model']}"
    names = evaluation.cases.names
    contents = "".join(
        f'<li><a href="#label-{column}">{text(name)}</a></li>' for column, name in enumerate(names)
    )
    body = [
        f"<h1>{text(title)}</h1>",
        '<p class="warning">Not a medical device: no score may decide about a patient.'
        + (" The page shows pictures of patients; treat it as you treat those.</p>" if pictures else "</p>"),
        f'<p class="warning">{text(caution[:1].upper() + caution[1:])}.</p>' if caution else "",
        _cards(evaluation),
        f"<h2>What was evaluated</h2>{_definitions(about)}",
        f'<h2 class="page">Labels</h2>{_labels(evaluation)}',
        f"<h2>Operating points</h2>{_thresholds(evaluation)}",
        _subgroups(evaluation),
        _against(evaluation, about),
        f'<h2>Each label</h2><ol class="contents">{contents}</ol>',
        *(_label(evaluation, column, pictures) for column in range(len(names))),
        f"<h2>How to read this</h2>{reading}",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{css}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _cards(evaluation: Evaluation) -> str:
    ours, guess = evaluation.everyone, evaluation.guess
    cards = [("Macro AUC", ours.get("auc", MACRO), "mean over the labels")]
    if COMPETITION in ours.columns and not lacking_for_competition(evaluation):
        cards.append(
            ("CheXpert's five", ours.get("auc", COMPETITION), "mean AUC of the competition findings")
        )
    accuracy = f"accuracy@{HALF}"
    for name, measure in (("Micro AUC", "auc"), (f"Right of all labels at {HALF}", accuracy)):
        reached = f"a constant guess reaches {number(guess.get(measure, MICRO).value)}"
        cards.append((name, ours.get(measure, MICRO), reached))
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card">{text(name)}<b>{number(found.value)}</b><span>{between(found)}</span>'
            f"<span>{text(note)}</span></div>"
            for name, found, note in cards
        )
        + "</div>"
    )


def _definitions(about: Mapping[str, str]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{text(name)}</dt><dd>{text(said)}</dd>" for name, said in about.items())
        + "</dl>"
    )


def _labels(evaluation: Evaluation) -> str:
    from chexscore.report.plots import forest_plot  # noqa: PLC0415, matplotlib is an extra

    group, guess = evaluation.everyone, evaluation.guess
    last = [
        "constant guess, micro",
        cell(guess.get("auc", MICRO)),
        "",
        "",
        *(cell(guess.get(measure, MICRO)) for measure in AREAS[:3]),
        "",
    ]
    areas = [(visible(label), group.get("auc", label)) for label in group.columns]
    lacking, without = left_out_of_means(evaluation), lacking_for_competition(evaluation)
    return (
        _areas(group, last)
        + (f"<p>The macro mean is over {text(lacking)}.</p>" if lacking else "")
        + (f"<p>{text(COMPETITION)} has no mean for want of {text(without)}.</p>" if without else "")
        + figure(forest_plot(areas), "AUC of each label with its 95 % interval", "forest")
    )


def _areas(group: Group, *more: Sequence[str]) -> str:
    """The table of what needs no operating point."""
    rows = [
        [
            text(label),
            cell(group.get("auc", label)),
            f"{group.known[label]:,}",
            positives(group, label),
            *(cell(group.get(measure, label), bounds=measure != "prevalence") for measure in AREAS),
        ]
        for label in group.columns
    ]
    headings = ("", "AUC", "n", "positive", "AP", "prevalence", "Brier", "ECE")
    return table(headings, [*rows, *more], group.columns)


def _thresholds(evaluation: Evaluation) -> str:
    note = (
        "A score at or above the threshold reads as positive. PPV and NPV hold for the prevalence of these "
        "data and no other; where no case of a label is called they are not defined, and their mean is not. "
        "Counts are true and false positives (TP, FP) and negatives (TN, FN)."
    )
    return f"<p>{note}</p>{_points(evaluation, evaluation.everyone)}"


def _points(evaluation: Evaluation, group: Group) -> str:
    """A table for each operating point."""
    parts = []
    names = evaluation.cases.names
    for place, (point, thresholds) in enumerate(evaluation.points.items()):
        known = dict(zip(names, thresholds, strict=True))
        shown = dict(zip(names, evaluation.defaults, strict=True)) if point == DEFAULT else {}
        columns = [label for label in group.columns if not math.isnan(known.get(label, 0))]
        rows = [
            [
                text(label),
                score(known.get(label, math.nan)) + below(text(shown.get(label, ""))),
                *(cell(group.get(f"{measure}@{point}", label)) for measure in POINT_MEASURES),
                _counts(group.counts[point].get(label)),
            ]
            for label in columns
        ]
        headings = ("", "threshold", *(heading for heading, _ in POINT_MEASURES.values()), "counts")
        lacking = [label for label in names if label not in columns]
        note = f"<p>Without {text(', '.join(lacking))}: no such point.</p>" if lacking else ""
        heading = "At the default of each label" if point == DEFAULT else f"At {point}"
        parts.append(
            folded(
                heading, table(headings, rows, columns) + note, is_open=not place, printed=group.name == "all"
            )
        )
    return "".join(parts)


def _counts(counts: Counts | None) -> str:
    if counts is None:
        return ""
    true, false, missed, rejected = counts
    return f"<small>TP {true:,} FP {false:,}<br>FN {missed:,} TN {rejected:,}</small>"


def _subgroups(evaluation: Evaluation) -> str:
    if not evaluation.splits:
        return ""
    note = (
        "Where the difference to the rest has an interval that excludes zero, a cell is marked and the "
        "difference stands in it; of two values only the first is compared, the second is its mirror, and "
        "micro values are not compared. Tables that are folded are printed if they are opened before. "
        f"{chance(evaluation)}"
    )
    parts = [f"<h2>Subgroups</h2><p>{text(note)}</p>"]
    return "".join([*parts, *(_split(evaluation, split) for split in evaluation.splits)])


def _split(evaluation: Evaluation, split: Split) -> str:
    from chexscore.report.plots import forest_plot  # noqa: PLC0415, matplotlib is an extra

    chosen, columns = split.subgroups, evaluation.everyone.columns
    areas = [(visible(one.value), one.group.get("auc", MACRO)) for one in chosen]
    plot = forest_plot(areas, split.everyone.get("auc", MACRO).value)
    lacking = left_out_of_means(evaluation, split)
    caption = "Macro AUC" + (f" over {lacking}" if lacking else "") + "; dotted: everyone"
    headings = ("", *(f"{one.value} ({one.group.cases:,})" for one in chosen))
    tables = []
    for measure in evaluation.compared:
        rows = [
            [
                text(label),
                *(
                    compared(
                        one.group.get(measure, label),
                        one.compared(measure, label),
                        f"{positives(one.group, label)} of {one.group.known[label]:,}"
                        if measure == "auc" and label in one.group.positives
                        else "",
                    )
                    for one in chosen
                ),
            ]
            for label in columns
        ]
        counts = "; below it how many are positive" if measure == "auc" else ""
        tables.append(f"<div><h4>{text(named(measure))}{counts}</h4>{table(headings, rows, columns)}</div>")
    whole = [
        folded(
            f"{one.group.name}: all measures of {counted(one.group.cases, 'cases')}",
            _areas(one.group) + _points(evaluation, one.group),
        )
        for one in chosen
    ]
    drawn = figure(plot, f"Macro AUC by {split.column}", "forest", caption=caption)
    return f'<h3>{text(split.column)}</h3>{drawn}<div class="tables">{"".join(tables)}</div>{"".join(whole)}'


def _against(evaluation: Evaluation, about: Mapping[str, str]) -> str:
    if evaluation.other is None or evaluation.difference is None:
        return ""
    ours, other, difference = evaluation.everyone, evaluation.other, evaluation.difference
    rows = [
        [
            text(label),
            *(
                each
                for measure in ("auc", "average_precision")
                for each in (
                    cell(ours.get(measure, label), bounds=False),
                    cell(other.get(measure, label), bounds=False),
                    changed(difference.get(measure, label)),
                )
            ),
        ]
        for label in ours.columns
    ]
    headings = ("", "AUC", "other", "difference", "AP", "other", "difference")
    who = f"{text(about['compared with'])} ({text(about['its model'])})"
    note = f"The other is {who}, on the same cases and draws."
    return f"<h2>Against another model</h2><p>{note} Marked: the interval excludes zero.</p>" + table(
        headings, rows, ours.columns
    )


def _label(evaluation: Evaluation, column: int, pictures: int) -> str:
    from chexscore.report import plots  # noqa: PLC0415, matplotlib is an extra

    cases = evaluation.cases
    known = ~np.isnan(cases.labels[:, column])
    labels, scores = cases.labels[known, column], cases.scores[known, column]
    default, chosen_for = evaluation.points[DEFAULT][column], evaluation.defaults[column]
    chosen = chosen_for in evaluation.points and chosen_for != DEFAULT
    points = {f"{visible(chosen_for)} (default)" if chosen else DEFAULT: default} | {
        visible(name): thresholds[column]
        for name, thresholds in evaluation.points.items()
        if name not in (DEFAULT, chosen_for) and not math.isnan(thresholds[column])
    }
    name = text(cases.names[column])
    head = (
        f'<section class="label"><h3 id="label-{column}">{name}</h3>'
        f"<p>{counted(len(labels), 'cases')}, {int(labels.sum()):,} positive.</p>"
    )
    if not 0 < labels.sum() < len(labels):
        return f"{head}<p>One class only: there is nothing to draw.</p></section>"
    drawn = {
        "ROC with operating points": plots.roc_plot(labels, scores, points),
        "Precision and recall": plots.precision_recall_plot(labels, scores),
        "Calibration; the larger a dot, the more cases; grey: fewer than 10": plots.calibration_plot(
            labels, scores
        ),
        "Scores of either class": plots.histogram(labels, scores, points),
    }
    figures = "".join(
        figure(svg, f"{cases.names[column]}: {what}", caption=what) for what, svg in drawn.items()
    )
    point = f"{chosen_for}, " if chosen else ""
    found = mistakes(cases, column, default, pictures)
    shown = [
        f"<div><h4>{what} at the default ({text(point)}{score(default)}): the worst of {total:,}</h4>"
        f"{_pictures(some)}</div>"
        for what, total, some in found
        if some
    ]
    return f'{head}<div class="plots">{figures}</div></section><div class="kinds">{"".join(shown)}</div>'


def _pictures(some: Iterable[Mistake]) -> str:
    figures = []
    for mistake in some:
        picture, reason = thumbnail(mistake.path)
        if not os.path.isabs(mistake.path):
            reason += "; relative paths are taken from the current folder"
        image = (
            f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
            if picture
            else f'<div class="gone">{text(reason)}</div>'
        )
        name = "/".join(mistake.path.split("/")[-PARTS:])
        figures.append(
            f'<figure title="{text(mistake.path)}">{image}'
            f"<figcaption>{score(mistake.score)}<br>{breakable(name)}</figcaption></figure>"
        )
    return f'<div class="pictures">{"".join(figures)}</div>'
