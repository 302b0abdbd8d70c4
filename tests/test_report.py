"""The report, read as a browser reads it."""

import base64
import io
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET  # of our own page
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from chexscore.errors import UsageError
from chexscore.evaluation.cases import Protocol
from chexscore.evaluation.evaluate import evaluate
from chexscore.evaluation.results import COMPETITION_FINDINGS, Evaluation
from chexscore.evaluation.summary import describe
from chexscore.intervals import Interval
from chexscore.report.curves import precision_recall
from chexscore.report.mistakes import mistakes
from chexscore.report.page import check_plots, to_html
from chexscore.report.plots import _line, forest_plot
from tests.phantoms import draw

ABOUT = {"name": "m", "version": "1", "sha256": "abc"}


class Page(HTMLParser):
    """What is on it: text, images, titles, and elements that are open."""

    VOID = ("meta", "br", "img", "wbr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.sources, self.open, self.tags = "", list[str](), list[str](), set[str]()
        self.titles = list[str | None]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")
        if "title" in dict(attrs):
            self.titles.append(dict(attrs)["title"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn films with scores, one of them deleted afterwards; the label Empty has one class only."""
    folder = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(3)  # more than two mistakes of either kind at 0.4
    rows, labels = [], ["path,patient,Sex,<b>Finding</b>,Empty"]
    for number in range(40):
        name = f'p{number}/film <&">.png'
        (folder / name).parent.mkdir()
        Image.fromarray(draw(number, size=32)).save(folder / name)
        finding = int(random.random() < 0.5)
        score = 1 / (1 + np.exp(-random.normal(2 * finding - 1)))
        rows.append(f"{folder / name},ok,{score:.6f},0.5,\n")
        labels.append(f"{name},p{number},{'FM'[number % 2]},{finding},0")
    (folder / "out.csv").write_text("path,status,<b>Finding</b>,Empty,note\n" + "".join(rows))
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    return folder


@pytest.fixture(scope="module")
def evaluation(folder: Path) -> Evaluation:
    predictions = str(folder / "out.csv")
    points = {"<b>Finding</b>": {"<script>youden": 0.4, "sensitivity90": 0.2}}
    protocol = Protocol(subgroups=("Sex",), resamples=50)
    return evaluate(predictions, str(folder / "labels.csv"), points, protocol, against=predictions)


def page(evaluation: Evaluation, **options: int) -> Page:
    about = describe(evaluation, "out.csv", ABOUT, "out.csv" if evaluation.other else None, {})
    html = to_html(evaluation, about, **options)
    assert not re.search(r"(src|href)=.(?!data:|#)", html), "a page that needs nothing else"
    assert not re.search("<th(?! scope=)[ >]", html), "screen readers read a heading with each cell"
    return Page(html)


def test_the_page_says_what_was_evaluated_and_found(evaluation: Evaluation) -> None:
    found = page(evaluation)
    assert not found.open
    assert "script" not in found.tags
    assert "<b>Finding</b>" in found.text
    for words in (
        "m 1",
        "abc",
        "40 images of 40 patients",
        "Not a medical device",
        "youden",
        "Sex",
        "F (20)",
        "At the default of each label",
        "of 20",
        "TP ",
    ):
        assert words in found.text, words
    auc = evaluation.everyone.get("auc", "<b>Finding</b>")
    assert f"{auc.value:.3f}{auc.low:.3f} to {auc.high:.3f}" in found.text
    assert "One class only" in found.text
    assert "Against another model" in found.text


def test_its_plots_and_pictures_are_inside(evaluation: Evaluation) -> None:
    found = page(evaluation)
    sources = found.sources
    content = [(source.split(",")[0], base64.b64decode(source.split(",")[1])) for source in sources]
    plots = [ET.fromstring(data) for kind, data in content if "svg" in kind]  # noqa: S314, our own
    assert len(plots) == 2 + 4  # labels, subgroups, and four of the one label that has both classes
    assert all(plot.tag.endswith("svg") for plot in plots)
    pictures = [Image.open(io.BytesIO(data)) for kind, data in content if "jpeg" in kind]
    wrong = mistakes(evaluation.cases, 0, 0.4, 3)
    assert len(pictures) == sum(len(some) for _, _, some in wrong) > 3
    assert found.titles == [mistake.path for _, _, some in wrong for mistake in some]
    assert {picture.size for picture in pictures} == {(32, 32)}
    assert not [source for source in page(evaluation, pictures=0).sources if "jpeg" in source]


def test_a_curve_of_a_rare_finding_is_drawn_as_it_is() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(20_000) < 0.002).astype(float)
    scores = random.normal(2 * labels, 1)
    curve = precision_recall(labels, scores)
    axes = Figure().add_subplot()
    _line(axes, curve, steps=True)
    x, y = (np.asarray(values, dtype=float) for values in axes.lines[0].get_data())
    assert len(x) < 2000
    whole, drawn = (float(np.sum(np.abs(np.diff(a)) * b[1:])) for a, b in ((curve.x, curve.y), (x, y)))
    assert drawn == pytest.approx(whole, abs=0.005)


def test_an_auc_without_an_interval_says_why_where_others_have_one() -> None:
    sure, alone = Interval(0.8, 0.7, 0.9), Interval(0.9, math.nan, math.nan)
    assert forest_plot([("A", sure), ("B", alone)]).count("too few") == 1
    assert "too few" not in forest_plot([("A", alone), ("B", alone)])


def test_mistakes_are_the_most_confident(evaluation: Evaluation) -> None:
    (what, total, some), (_, missed, others) = mistakes(evaluation.cases, 0, 0.4, 2)
    labels, scores = evaluation.cases.labels[:, 0], evaluation.cases.scores[:, 0]
    negatives = np.sort(scores[(labels == 0) & (scores >= 0.4)])[::-1]
    positives = np.sort(scores[(labels == 1) & (scores < 0.4)])
    assert what == "False positives"
    assert (total, missed) == (len(negatives), len(positives))
    assert min(total, missed) > len(some) == len(others)
    assert [mistake.score for mistake in some] == negatives[:2].tolist()
    assert [mistake.score for mistake in others] == positives[:2].tolist()
    row = int(np.flatnonzero(scores == some[0].score)[0])
    assert some[0].path == evaluation.cases.images[row]


def test_a_picture_that_is_gone_is_named(evaluation: Evaluation) -> None:
    from chexscore.report.mistakes import thumbnail

    thumbnail.cache_clear()
    (_, _, some), _ = mistakes(evaluation.cases, 0, 0.4, 1)
    Path(some[0].path).unlink()
    found = page(evaluation, pictures=1)
    assert "there is no such file (any more)" in found.text
    assert 'film <&">.png' in found.text


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    check_plots()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=re.escape("pip install 'chexscore[report]'")):
        check_plots()


def test_a_caution_keeps_the_names_in_it(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,WardKey,A\na.png,x,1\nb.png,y,0\n")
    (tmp_path / "out.csv").write_text("path,status,A,note\na.png,ok,0.9,\nb.png,ok,0.1,\n")
    protocol = Protocol(group="WardKey", resamples=20)
    found = evaluate(str(tmp_path / "out.csv"), str(tmp_path / "labels.csv"), {}, protocol)
    assert "Only 2 values of WardKey: the intervals are rough" in page(found).text


def test_the_mean_of_five_findings_says_why_it_is_not_there(tmp_path: Path) -> None:
    scores = ",".join(["0.5"] * 5)
    rows = "".join(f"{i}.png,ok,{scores},\n" for i in range(4))
    (tmp_path / "out.csv").write_text(f"path,status,{','.join(COMPETITION_FINDINGS)},note\n{rows}")
    why = "for want of Edema (one class only)"
    for edema, is_there in ((0, False), (1, True)):
        lines = "".join(f"{i}.png,{i % 2},{i % 2},{i % 2},{i % 2 * edema},{i % 2}\n" for i in range(4))
        (tmp_path / "labels.csv").write_text(f"path,{','.join(COMPETITION_FINDINGS)}\n{lines}")
        protocol = Protocol(resamples=0)
        found = evaluate(str(tmp_path / "out.csv"), str(tmp_path / "labels.csv"), {}, protocol)
        about = describe(found, "out.csv", ABOUT)
        assert about.get("CheXpert 5") == (None if is_there else f"no mean {why}")
        text = page(found, pictures=0).text
        assert ("CheXpert's five" in text) is is_there
        assert (f"CheXpert 5 has no mean {why}." in text) is not is_there


def test_cells_that_are_no_utf_8_control_characters_and_dollar_signs_are_survived(tmp_path: Path) -> None:
    rows = [f"{i}.png,ok,{i / 10},{i / 10},\n" for i in range(10)]
    (tmp_path / "out.csv").write_text("path,status,A\x01,$B$,note\n" + "".join(rows))
    cells = b"".join(b"%d.png,M\xe4nnlich $x_,%d,%d\n" % (i, i % 2, i % 2) for i in range(10))
    (tmp_path / "labels.csv").write_bytes(b"path,Sex,A\x01,$B$\n" + cells)
    protocol = Protocol(subgroups=("Sex",), resamples=10)
    points = {"A\x01": {"p\x02": 0.5}, "$B$": {"p\x02": 0.5}}
    found = page(
        evaluate(str(tmp_path / "out.csv"), str(tmp_path / "labels.csv"), points, protocol), pictures=1
    )
    assert "(any more); relative paths are taken from the current folder" in found.text
    assert r"M\xe4nnlich $x_ (10)" in found.text
    assert r"A\x01" in found.text
    assert "Only 10 images: the intervals are rough" in found.text
    drawn = [base64.b64decode(source.split(",")[1]) for source in found.sources]
    assert all(ET.fromstring(svg) is not None for svg in drawn)  # noqa: S314, our own


def test_matplotlib_is_loaded_for_plots_alone() -> None:
    code = (
        "import sys\nfrom chexscore import cli\n"
        "from chexscore.evaluation import evaluate, summary, tabulate\n"
        "from chexscore.report import page\n"
        "print(*sorted({'matplotlib', 'sklearn', 'scipy', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
