"""Cases: what an evaluation counts one by one, images or studies, each with its labels and scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.errors import TableError, UsageError
from chexscore.evaluation.joining import join
from chexscore.evaluation.layouts import LabelTable, find_column, read_labels
from chexscore.labels import DEFAULT, Policies, stripped
from chexscore.messages import counted
from chexscore.predictions import Prediction, Status, read_predictions
from chexscore.samples import MACRO, MICRO
from chexscore.tables import check_csv

__all__ = ["Cases", "Protocol", "join_cases", "read_cases"]


MEAN_DIGITS = 12
"""Of the mean score of a study's views: fewer than rounding errors of its sum reach."""

NO_UTF8 = re.compile("[\udc80-\udcff]")
"""What stands for bytes that are no UTF-8; PEP 383."""


@dataclass(frozen=True)
class Protocol:
    """How an evaluation is done.

    Attributes:
        uncertain: what labels of -1 are taken for.
        blank: what blank labels are taken for.
        by: what is counted one by one; "study" takes the views of a study together.
        views: the score of a study, the largest or the mean of its views'.
        group: what intervals draw: "patient", "study", "image" or a column of the labels; None takes patients
            where they are known, else studies, else images.
        subgroups: columns to evaluate apart, "Sex", or with edges, "Age:40,60".
        resamples: draws for the intervals; 0 for none.
        strict: refuse to leave anything out.
    """

    uncertain: Policies = field(default_factory=lambda: {DEFAULT: "ignore"})
    blank: Policies = field(default_factory=lambda: {DEFAULT: "ignore"})
    by: Literal["image", "study"] = "image"
    views: Literal["max", "mean"] = "max"
    group: str | None = None
    subgroups: tuple[str, ...] = ()
    resamples: int = 1000
    strict: bool = False


@dataclass(frozen=True)
class Cases:
    """Labels and scores, joined.

    Attributes:
        names: the L labels that all sides have.
        labels: [N, L], 1, 0 or NaN.
        scores: [N, L], 0..1.
        others: [N, L], the scores of the model to compare with, or None.
        groups: [N], the group that an interval draws this case with.
        group: what these groups are: "patient", "study", "image" or a column.
        images: [M], paths of all images, as predicted.
        lines: [M], their lines in `table`.
        case: [M], which case each image belongs to.
        picture: [N, L], the image whose score decided (of a mean, the one with the largest score).
        table: the labels.
        left_over: what did not take part -> how many.
        alone: images whose path names none of what is drawn, or evaluated, though others do; each is one of
            its own.
        only_predicted: labels of the model that the table lacks.
        only_labelled: labels of the table that the model lacks.
        only_ours: labels that the other model lacks.
        disagreeing: studies of whose views some are positive for a label and others negative.
    """

    names: tuple[str, ...]
    labels: NDArray[np.float64]
    scores: NDArray[np.float64]
    others: NDArray[np.float64] | None
    groups: list[str]
    group: str
    images: list[str]
    lines: NDArray[np.int64]
    case: NDArray[np.int64]
    picture: NDArray[np.int64]
    table: LabelTable
    left_over: dict[str, int]
    alone: int
    only_predicted: tuple[str, ...]
    only_labelled: tuple[str, ...]
    only_ours: tuple[str, ...]
    disagreeing: int = 0


def read_cases(predictions: str, labels: str, protocol: Protocol, against: str | None = None) -> Cases:
    """Reads predictions and labels, and joins them.

    Args:
        predictions: CSV that `predict` wrote.
        labels: CSV of labels; see `chexscore.evaluation.layouts`.
        protocol: see there.
        against: CSV of another model's predictions; images that only one model scored are left out.

    Raises:
        TableError: a file cannot be used, none of its images was scored, no image or no label is in all of
            them, a path could belong to several lines, patients or studies that count may be several of one
            name, or something is left over and the protocol is strict.
        UsageError: the protocol asks for studies or a column that are not there.
    """
    names, rows = _read(predictions)
    return join_cases(names, rows, labels, protocol, against, predictions)


def join_cases(
    names: tuple[str, ...],
    rows: Sequence[Prediction],
    labels: str,
    protocol: Protocol,
    against: str | None,
    source: str,
) -> Cases:
    """As `read_cases`, for predictions `rows` of the labels `names`, which errors say to be in `source`."""
    if taken := {MACRO, MICRO} & set(names):
        raise TableError(
            f"{source}: a label of the model is called {min(taken)}, as a mean is here; rename its column."
        )
    table = read_labels(labels)
    shared = tuple(name for name in names if name in table.cells)
    if not shared:
        raise TableError(
            f"{labels}: has a column for none of the model's labels: {', '.join(names)}; its own labels are "
            f"{', '.join(table.labels) or 'none'}."
        )
    partners, left_over = _partners(rows, table, source)
    pairs = [(rows[row], line) for line, row in partners.items() if rows[row].status is Status.OK]
    if not pairs:
        raise TableError(
            f"{labels}: names no scored image; its paths are such as {table.paths[0]}, those of the "
            f"predictions such as {rows[0].path if rows else '(none)'}; one has to end with the other, with "
            "the same capitals and suffix; cut the first folders of the labels' paths if these differ."
        )
    strange = any(NO_UTF8.search(path) for row, path in enumerate(table.paths) if row not in partners)
    # Unless the names of files are none either.
    mend = strange and not any(NO_UTF8.search(row.path) for row in rows)
    hint = " (not UTF-8? save the labels as CSV UTF-8)" if mend else ""
    left_over[f"lines of labels without a prediction{hint}"] = len(table.paths) - len(partners)
    others = None
    if against is not None:
        other_names, other_rows = _read(against)
        theirs, left_over_there = _partners(other_rows, table, against, f" in {against}")
        shared = tuple(name for name in shared if name in other_names)
        if not shared:
            raise TableError(f"{against}: has none of the first model's labels: {', '.join(names)}.")
        theirs = {line: row for line, row in theirs.items() if other_rows[row].status is Status.OK}
        left_over |= left_over_there
        left_over["images that only the first model scored"] = sum(line not in theirs for _, line in pairs)
        left_over[f"images that only {against} scored"] = len(set(theirs) - {line for _, line in pairs})
        pairs = [(row, line) for row, line in pairs if line in theirs]
        if not pairs:
            raise TableError(f"{against}: has no scored image in common with the first model's predictions.")
        others = np.array([[other_rows[theirs[line]].scores[name] for name in shared] for _, line in pairs])
    lines = np.array([line for _, line in pairs], dtype=np.int64)
    targets = table.targets(shared, uncertain=protocol.uncertain, blank=protocol.blank)
    if np.isnan(targets[lines]).all():
        raise TableError(
            f"{labels}: no label is known of the {counted(len(pairs), 'images')}, all are uncertain or "
            "blank; say what these are taken for with --uncertain or --blank."
        )
    group, groups = _groups(table, lines, protocol)
    without_name = {line for kind in (group, protocol.by) for line in table.alone.get(kind, ())}
    cases = Cases(
        names=shared,
        labels=targets[lines].astype(np.float64),
        scores=np.array([[row.scores[name] for name in shared] for row, _ in pairs]),
        others=others,
        groups=groups,
        group=group,
        images=[row.path for row, _ in pairs],
        lines=lines,
        case=np.arange(len(pairs)),
        picture=np.repeat(np.arange(len(pairs))[:, None], len(shared), axis=1),
        table=table,
        left_over={what: number for what, number in left_over.items() if number},
        alone=sum(line in without_name for _, line in pairs),
        only_predicted=tuple(name for name in names if name not in table.cells),
        only_labelled=tuple(name for name in table.labels if name not in names),
        only_ours=tuple(name for name in names if name in table.cells and name not in shared),
    )
    if protocol.strict and cases.left_over:
        what = "; ".join(counted(number, what) for what, number in cases.left_over.items())
        raise TableError(f"{source} and {labels}: {what}; --strict allows nothing to be left over.")
    return _by_study(cases, protocol) if protocol.by == "study" else cases


def _read(source: str) -> tuple[tuple[str, ...], list[Prediction]]:
    check_csv(source, "predictions")
    names, rows = read_predictions(source)
    if not any(row.status is Status.OK for row in rows):
        why = f", the first because: {rows[0].note or rows[0].status}" if rows else ""
        raise TableError(f"{source}: has {counted(len(rows), 'images')}, and no score{why}.")
    return names, rows


def _partners(
    rows: Sequence[Prediction], table: LabelTable, source: str, where: str = ""
) -> tuple[dict[int, int], dict[str, int]]:
    """Line of the table -> its prediction, in the order of the predictions; and what is left over."""
    lines = join(
        [row.path for row in rows],
        table.paths,
        predictions=source,
        labels=table.source,
        lines=[line + 2 for line in table.cells.index],
    )
    scored = [line for row, line in zip(rows, lines, strict=True) if row.status is Status.OK]
    return {line: row for row, line in enumerate(lines) if line is not None}, {
        f"predictions without a score{where}": len(rows) - len(scored),
        f"scored images without labels{where}": scored.count(None),
    }


def _groups(table: LabelTable, lines: NDArray[np.int64], protocol: Protocol) -> tuple[str, list[str]]:
    """What intervals draw, and for each image which one it belongs to."""
    known = {
        "patient": table.patients,
        "study": table.studies,
        "image": [str(line) for line in range(len(table.paths))],
    }
    wanted = protocol.group
    if wanted is None:
        wanted = next(name for name, groups in known.items() if groups is not None)
    if wanted.lower() in known:
        wanted = wanted.lower()
    groups = known.get(wanted)
    if groups is not None and wanted != "image":
        table.check(wanted, lines, ", or name another with --group")
    column = find_column(list(map(str, table.cells)), wanted)
    if groups is None and column is not None:
        wanted, groups = column, list(stripped(table.cells[column]))
        if "" in groups:
            line = table.cells.index[groups.index("")] + 2
            raise TableError(f"{table.source}: line {line} has no {wanted}.")
    if groups is None:
        raise UsageError(
            f"--group {wanted}: {table.source} has no such column; it has {', '.join(table.cells.columns)}."
        )
    return wanted, [groups[line] for line in lines]


def _by_study(cases: Cases, protocol: Protocol) -> Cases:
    """Takes the views of each study together: its label is positive where that of any view is."""
    studies = cases.table.studies
    if studies is None:
        raise UsageError(
            f"--by study: {cases.table.source} has no column study, and its paths hold no patient and study."
        )
    cases.table.check("study", cases.lines)
    case = pd.factorize(np.array([studies[line] for line in cases.lines], dtype=object))[0].astype(np.int64)
    order = np.argsort(case, kind="stable")
    starts = np.flatnonzero(np.diff(case[order], prepend=-1))
    first = order[starts]
    picture = np.empty((len(starts), len(cases.names)), dtype=np.int64)
    for column in range(len(cases.names)):
        by_score = np.lexsort((cases.scores[:, column], case))
        picture[:, column] = by_score[np.append(starts[1:], len(case)) - 1]

    def together(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        if protocol.views == "max":
            return np.maximum.reduceat(scores[order], starts)
        # The same whatever the order of the views, and for views of one score that score to its last digit.
        means = (np.add.reduceat(scores[order], starts) / np.bincount(case)[:, None]).round(MEAN_DIGITS)
        least, most = (bound.reduceat(scores[order], starts) for bound in (np.minimum, np.maximum))
        return np.clip(means, least, most)

    most, least = (bound.reduceat(cases.labels[order], starts) for bound in (np.fmax, np.fmin))
    return replace(
        cases,
        labels=most,
        scores=together(cases.scores),
        others=None if cases.others is None else together(cases.others),
        groups=_of_first(cases.groups, first) if cases.group != "image" else [str(row) for row in first],
        group="study" if cases.group == "image" else cases.group,
        case=case,
        picture=picture,
        disagreeing=int((most > least).any(axis=1).sum()),
    )


def _of_first(values: Sequence[str], first: NDArray[np.int64]) -> list[str]:
    return [values[row] for row in first]
