import math
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from chexscore.errors import TableError
from chexscore.evaluation import evaluate, join, to_csv


def test_paths_join_by_ending_whichever_side_is_longer() -> None:
    assert join(["/data/images/a.png", "b.png", "./c.png"], ["b.png", "images/a.png", "x/y/c.png"]) == [
        1,
        0,
        2,
    ]
    assert join(["data/a.png"], ["data\\a.png"]) == [0]


def test_only_whole_names_are_compared() -> None:
    assert join(["data/ba.png"], ["a.png"]) == [None]


def test_the_same_path_wins_over_an_ending_and_a_longer_ending_over_a_shorter() -> None:
    assert join(["x/a.png", "a.png"], ["a.png", "x/a.png"]) == [1, 0]
    assert join(["data/x/a.png", "data/a.png"], ["a.png", "x/a.png"]) == [1, 0]


@pytest.mark.parametrize(
    ("predicted", "labelled"),
    [
        (["one/a.png", "two/a.png"], ["a.png"]),
        (["a.png"], ["one/a.png", "two/a.png"]),
        (["one/a.png"], ["one/a.png", "one/a.png"]),
    ],
)
def test_an_ambiguous_join_is_refused_with_the_names(predicted: list[str], labelled: list[str]) -> None:
    with pytest.raises(TableError) as caught:
        join(predicted, labelled)
    for path in {*predicted, *labelled}:
        assert path in str(caught.value)


def test_many_images_of_one_name_join_by_their_folders() -> None:
    """CheXpert calls nearly every image view1_frontal.jpg."""
    names = [f"patient{i:05}/study1/view1_frontal.jpg" for i in range(5000)]
    assert join([f"/data/train/{name}" for name in names], names) == list(range(5000))


SCORES = [0.9, 0.8, 0.7, 0.4, 0.3, 0.2]
FINDING = [1, 0, 1, 1, 0, 0]


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    rows = [f"data/{i}.png,ok,{score},{1 - score:.1f},0.5,\n" for i, score in enumerate(SCORES)]
    rows.insert(2, "data/bad.png,unreadable,,,,the file is empty\n")
    path = tmp_path / "out.csv"
    path.write_text("path,status,Finding,Opposite,Unlabelled,note\n" + "".join(rows))
    return path


def label_csv(tmp_path: Path, text: str) -> str:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return str(path)


def test_the_table(tmp_path: Path, predictions: Path) -> None:
    lines = [f"{i}.png,p{i},{finding},{finding}\n" for i, finding in enumerate(FINDING)]
    labels = label_csv(tmp_path, "path,patient,Finding,Opposite\n" + "".join(lines) + "gone.png,p9,1,1\n")
    result = evaluate(str(predictions), labels, {"Finding": 0.75, "Unlabelled": 0.5})
    finding, opposite, macro, micro = result.rows
    auc = roc_auc_score(FINDING, SCORES)
    assert (finding.label, finding.images, finding.positives, finding.negatives) == ("Finding", 6, 3, 3)
    assert finding.auc == pytest.approx(auc)
    assert finding.accuracy == pytest.approx(3 / 6)  # .9 and the two lowest, of which .2 and .3, are right
    assert opposite.auc == pytest.approx(1 - auc)
    assert opposite.threshold == 0.5
    assert macro.auc == pytest.approx(0.5)
    assert micro.auc == pytest.approx(
        roc_auc_score(FINDING * 2, SCORES + [round(1 - score, 1) for score in SCORES])
    )
    assert micro.accuracy == pytest.approx((finding.accuracy + opposite.accuracy) / 2)
    assert math.isnan(micro.threshold)
    assert (result.joined, result.not_scored, result.without_labels, result.without_predictions) == (
        6,
        1,
        0,
        1,
    )
    assert result.only_predicted == ("Unlabelled",)
    assert result.assumed_thresholds


def test_blank_and_uncertain_labels_are_left_out_and_one_class_leaves_empty_cells(
    tmp_path: Path, predictions: Path
) -> None:
    text = "Path,Finding,Opposite\n0.png,1,1\n1.png,-1,1\n2.png,,1\n3.png,0.0,\n"
    result = evaluate(str(predictions), label_csv(tmp_path, text), {"Finding": 0.5, "Opposite": 0.5})
    finding, opposite, *_ = result.rows
    assert (finding.images, finding.positives, finding.negatives) == (2, 1, 1)
    assert math.isnan(opposite.auc)
    assert result.without_labels == 2
    assert not result.assumed_thresholds
    assert to_csv(result).splitlines()[:3] == [
        "label,images,positives,negatives,auc,threshold,accuracy",
        "Finding,2,1,1,1.000000,0.500000,1.000000",
        "Opposite,3,3,0,,0.500000,0.000000",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,Other\n0.png,1\n", "a column for none of the model's labels"),
        ("file,Finding\n0.png,1\n", "no column path"),
        ("path,Finding\n", "no rows"),
        ("path,Finding\nelsewhere.png,1\n", "no scored image"),
        ("path,Finding\n0.png,yes\n", r"column Finding, line 2: 'yes'"),
        ("path,Finding\n0.png,2\n", r"column Finding, line 2: '2'"),
        ("", "no rows"),
        ("path;Finding\n0.png;1\n", "semicolons"),
        ("path,Finding,Finding\n0.png,1,1\n", "two columns are called 'Finding'"),
        ("path,Finding\n0.png,1\n1.png,1,\n", "line 3 has 3 cells, the first line 2"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    tmp_path: Path, predictions: Path, text: str, said: str
) -> None:
    with pytest.raises(TableError, match=said):
        evaluate(str(predictions), label_csv(tmp_path, text), {})
