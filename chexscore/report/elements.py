"""The elements of a report: tables, figures, cells."""

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape

from chexscore.intervals import Interval
from chexscore.samples import MACRO

__all__ = ["between", "cell", "change", "compared", "figure", "number", "readable", "table", "text"]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], columns: Sequence[str]) -> str:
    """A table whose rows belong to `columns` of a group, with a line above the means.

    Headings are text. Cells are HTML; one that begins with "<td" brings its own element.
    """
    head = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    lines = []
    for label, cells in zip([*columns, ""], rows, strict=False):
        start = '<tr class="first">' if label == MACRO else "<tr>"
        lines.append(
            start
            + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table>{body}</table></div>'


def figure(svg: str, alt: str, kind: str = "", *, caption: str = "") -> str:
    """An image of its own, so that the names inside one SVG cannot meet those of another."""
    source = base64.b64encode(svg.encode()).decode()
    said = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    opening = f'<figure class="{kind}">' if kind else "<figure>"
    return f'{opening}<img alt="{text(alt)}" src="data:image/svg+xml;base64,{source}">{said}</figure>'


def cell(found: Interval, *, bounds: bool = True) -> str:
    """A measure, below it its interval."""
    text = between(found) if bounds else ""
    return number(found.value) + (f"<br><small>{text}</small>" if text else "")


def compared(found: Interval, difference: Interval) -> str:
    """A measure, below it its interval; if its difference to another excludes zero, marked, below it that."""
    if not difference.excludes_zero:
        return cell(found)
    return (
        f'<td class="marked">{cell(found)}<br><small>{difference.value:+.3f} '
        f"({difference.low:+.3f} to {difference.high:+.3f})</small></td>"
    )


def change(found: Interval) -> str:
    """A difference, below it its interval; marked if that excludes zero."""
    if math.isnan(found.value):
        return ""
    bounds = "" if math.isnan(found.low) else f"<br><small>{found.low:+.3f} to {found.high:+.3f}</small>"
    text = f"{found.value:+.3f}{bounds}"
    return f'<td class="marked">{text}</td>' if found.excludes_zero else text


def between(found: Interval) -> str:
    """An interval, or nothing."""
    return "" if math.isnan(found.low) else f"{found.low:.3f} to {found.high:.3f}"


def number(value: float) -> str:
    """Three decimals, or nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.3f}"


def readable(words: str) -> str:
    r"""Bytes that are no UTF-8, of a file name or a cell, become \\xNN."""
    return words.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def text(words: str) -> str:
    """Words as HTML."""
    return escape(readable(words))
