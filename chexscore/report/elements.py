"""The elements of a report: tables, figures, cells."""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

from chexscore.evaluation.figures import between, change, change_between, number
from chexscore.intervals import Interval
from chexscore.messages import visible
from chexscore.samples import MACRO

__all__ = ["below", "breakable", "cell", "changed", "compared", "figure", "folded", "table", "text"]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], columns: Sequence[str]) -> str:
    """A table whose rows belong to `columns` of a group, with a line above the means.

    Headings are text. Cells are HTML; one that begins with "<td" brings its own element.
    """
    head = "".join(f'<th scope="col">{text(heading)}</th>' for heading in headings)
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


def folded(heading: str, body: str, *, is_open: bool = False, printed: bool = False) -> str:
    """HTML below a heading that opens and closes it, without a script; printed only if open, or always."""
    attributes = (" open" if is_open else "") + (' class="printed"' if printed else "")
    return f"<details{attributes}><summary>{text(heading)}</summary>{body}</details>"


def cell(found: Interval, *, bounds: bool = True) -> str:
    """A measure, below it its interval."""
    return number(found.value) + below(between(found) if bounds else "")


def compared(found: Interval, difference: Interval, counts: str) -> str:
    """A measure, below it its interval and counts; if its difference excludes zero, marked, below it that."""
    if not difference.excludes_zero:
        return cell(found) + below(counts, "counts")
    said = f"{change(difference)} ({change_between(difference)})"
    return f'<td class="marked">{cell(found)}{below(said)}{below(counts, "counts")}</td>'


def changed(found: Interval) -> str:
    """A difference, below it its interval; marked if that excludes zero."""
    text = change(found) + below(change_between(found))
    return f'<td class="marked">{text}</td>' if found.excludes_zero else text


def below(words: str, kind: str = "") -> str:
    """Small text under a figure, or nothing."""
    opening = f'<small class="{kind}">' if kind else "<small>"
    return f"<br>{opening}{words}</small>" if words else ""


def text(words: str) -> str:
    r"""Words as HTML; control characters, and bytes that are no UTF-8, become \xNN."""
    return escape(visible(words))


def breakable(path: str) -> str:
    """A path as HTML that may go on in the next line behind each of its parts."""
    return re.sub(r"([/_-]+)", r"\1<wbr>", text(path))
