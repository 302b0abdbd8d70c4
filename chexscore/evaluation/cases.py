"""Cases: what an evaluation counts one by one, images or studies, each with its labels and scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chexscore.errors import TableError, UsageError
from chexscore.evaluation.joining import join
from chexscore.evaluation.layouts import LabelTable, read_labels
from chexscore.labels import Policy
from chexscore.predictions import Prediction, Status, read_predictions
from chexscore.tables import check_csv

__all__ = ["Cases", "Protocol", "read_cases"]


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

    uncertain: Policy = "ignore"
    blank: Policy = "ignore"
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
        only_predicted: labels of the model that the table lacks.
        only_labelled: labels of the table that the model lacks.
        only_ours: labels that the other model lacks.
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
    only_predicted: tuple[str, ...]
    only_labelled: tuple[str, ...]
    only_ours: tuple[str, ...]


def read_cases(predictions: str, labels: str, protocol: Protocol, against: str | None = None) -> Cases:
    """Reads predictions and labels, and joins them.

    Args:
        predictions: CSV that `predict` wrote.
        labels: CSV of labels; see `chexscore.evaluation.layouts`.
        protocol: see there.
        against: CSV of another model's predictions; images that only one model scored are left out.

    Raises:
        TableError: a file cannot be used, no image or no label is in all of them, a path could belong to
            several lines, or something is left over and the protocol is strict.
        UsageError: the protocol asks for studies or a column that are not there.
    """
    names, rows = _read(predictions)
    table = read_labels(labels)
    shared = tuple(name for name in names if name in table.cells)
    if not shared:
        raise TableError(f"{labels}: has a column for none of the model's labels: {', '.join(names)}.")
    partners = join([row.path for row in rows], table.paths)
    scored = [row for row in rows if row.status is Status.OK]
    pairs = [
        (row, line)
        for row, line in zip(rows, partners, strict=True)
        if line is not None and row.status == "ok"
    ]
    if not pairs:
        raise TableError(
            f"{labels}: names no scored image; its paths are such as {table.paths[0]}, those of the "
            f"predictions such as {rows[0].path if rows else '(none)'}."
        )
    left_over = {
        "predictions without a score": len(rows) - len(scored),
        "scored images without labels": len(scored) - len(pairs),
        "lines of labels without a prediction": len(table.paths) - sum(line is not None for line in partners),
    }
    others = None
    if against is not None:
        other_names, theirs = _read_against(against, table)
        shared = tuple(name for name in shared if name in other_names)
        if not shared:
            raise TableError(f"{against}: has none of the first model's labels: {', '.join(names)}.")
        left_over["images that only the first model scored"] = sum(line not in theirs for _, line in pairs)
        left_over[f"images that only {against} scored"] = len(set(theirs) - {line for _, line in pairs})
        pairs = [(row, line) for row, line in pairs if line in theirs]
        if not pairs:
            raise TableError(f"{against}: has no scored image in common with the first model's predictions.")
        others = np.array([[theirs[line].scores[name] for name in shared] for _, line in pairs])
    lines = np.array([line for _, line in pairs], dtype=np.int64)
    targets = table.targets(shared, uncertain=protocol.uncertain, blank=protocol.blank)
    count = len(pairs)
    group, groups = _groups(table, lines, protocol)
    cases = Cases(
        names=shared,
        labels=targets[lines].astype(np.float64),
        scores=np.array([[row.scores[name] for name in shared] for row, _ in pairs]),
        others=others,
        groups=groups,
        group=group,
        images=[row.path for row, _ in pairs],
        lines=lines,
        case=np.arange(count),
        picture=np.repeat(np.arange(count)[:, None], len(shared), axis=1),
        table=table,
        left_over={what: number for what, number in left_over.items() if number},
        only_predicted=tuple(name for name in names if name not in table.cells),
        only_labelled=tuple(name for name in table.labels if name not in names),
        only_ours=tuple(name for name in names if name in table.cells and name not in shared),
    )
    if protocol.strict and cases.left_over:
        what = "; ".join(f"{number} {what}" for what, number in cases.left_over.items())
        raise TableError(f"{what}: --strict allows nothing to be left over.")
    return _by_study(cases, protocol) if protocol.by == "study" else cases


def _read(source: str) -> tuple[tuple[str, ...], list[Prediction]]:
    check_csv(source, "predictions")
    return read_predictions(source)


def _read_against(source: str, table: LabelTable) -> tuple[tuple[str, ...], dict[int, Prediction]]:
    """The other model's labels, and line of the table -> its prediction."""
    names, rows = _read(source)
    partners = join([row.path for row in rows], table.paths)
    joined = zip(rows, partners, strict=True)
    return names, {line: row for row, line in joined if line is not None and row.status is Status.OK}


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
    groups = known.get(wanted)
    if groups is None and wanted in table.cells:
        groups = list(table.cells[wanted])
        if "" in groups:
            raise TableError(f"{table.source}: line {groups.index('') + 2} has no {wanted}.")
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
        return np.asarray(np.add.reduceat(scores[order], starts) / np.bincount(case)[:, None])

    return replace(
        cases,
        labels=np.fmax.reduceat(cases.labels[order], starts),
        scores=together(cases.scores),
        others=None if cases.others is None else together(cases.others),
        groups=_of_first(cases.groups, first) if cases.group != "image" else [str(row) for row in first],
        group="study" if cases.group == "image" else cases.group,
        case=case,
        picture=picture,
    )


def _of_first(values: Sequence[str], first: NDArray[np.int64]) -> list[str]:
    return [values[row] for row in first]
