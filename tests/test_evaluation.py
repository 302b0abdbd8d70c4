import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn

from chexscore.errors import ChexscoreError, TableError, UsageError
from chexscore.evaluation.cases import Protocol, read_cases
from chexscore.evaluation.evaluate import check_images, evaluate
from chexscore.evaluation.figures import chance
from chexscore.evaluation.results import Evaluation
from chexscore.evaluation.summary import describe, to_csv, to_json
from chexscore.labels import read_policies

SCORES = [0.9, 0.8, 0.7, 0.4, 0.3, 0.2]
FINDING = [1, 0, 1, 1, 0, 0]
QUICK = Protocol(resamples=20)


def write_predictions(
    path: Path,
    names: Sequence[str],
    paths: Sequence[str],
    scores: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
) -> str:
    lines = [
        f"{name},ok,{','.join(f'{score:.6f}' for score in row)},\n"
        for name, row in zip(paths, scores, strict=True)
    ]
    path.write_text(f"path,status,{','.join(names)},note\n" + "".join(lines))
    return str(path)


@pytest.fixture
def predictions(tmp_path: Path) -> str:
    rows = [f"data/{i}.png,ok,{score},{1 - score:.1f},0.5,\n" for i, score in enumerate(SCORES)]
    rows.insert(2, "data/bad.png,unreadable,,,,the file is empty\n")
    path = tmp_path / "out.csv"
    path.write_text("path,status,Finding,Opposite,Unlabelled,note\n" + "".join(rows))
    return str(path)


def tidy(result: Evaluation) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(result))))


def label_csv(tmp_path: Path, text: str) -> str:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return str(path)


def test_the_table(tmp_path: Path, predictions: str) -> None:
    lines = [f"{i}.png,p{i},{finding},{finding},0\n" for i, finding in enumerate(FINDING)]
    labels = label_csv(
        tmp_path, "path,patient,Finding,Opposite,Extra\n" + "".join(lines) + "gone.png,p9,1,1,0\n"
    )
    points = {"Finding": {"strict": 0.8, "loose": 0.25}, "Unlabelled": {"default": 0.5}}  # 0.8 is a score
    result = evaluate(predictions, labels, points, QUICK)
    table = result.everyone
    auc = sklearn.roc_auc_score(FINDING, SCORES)
    assert table.columns == ("Finding", "Opposite", "macro", "micro")
    assert [table.known[name] for name in table.columns] == [6, 6, 6, 12]
    assert table.positives == {"Finding": 3, "Opposite": 3, "micro": 6}  # a mean has none
    assert [table.get("auc", name).value for name in table.columns[:3]] == pytest.approx([auc, 1 - auc, 0.5])
    flat = SCORES + [round(1 - score, 1) for score in SCORES]
    assert table.get("auc", "micro").value == pytest.approx(sklearn.roc_auc_score(FINDING * 2, flat))
    assert table.get("accuracy@strict", "Finding").value == pytest.approx(3 / 6)
    assert table.get("sensitivity@loose", "Finding").value == 1
    assert table.get("specificity@loose", "Finding").value == pytest.approx(1 / 3)
    assert math.isnan(table.get("accuracy@strict", "Opposite").value)  # has no such point
    right = np.mean([(score >= 0.5) == finding for score, finding in zip(flat, FINDING * 2, strict=True)])
    assert table.get("accuracy@0.5", "micro").value == pytest.approx(right)
    assert result.cases.left_over == {
        "predictions without a score": 1,
        "lines of labels without a prediction": 1,
    }
    assert result.cases.only_predicted == ("Unlabelled",)
    assert result.cases.only_labelled == ("Extra",)
    assert result.defaults == ("strict", "not known")
    assert table.counts["strict"] == {"Finding": (1, 1, 2, 2), "micro": (1, 1, 2, 2)}
    assert "Finding,all,false_negatives@strict,2,,,6" in to_csv(result)
    at_default = [table.get("accuracy@default", name).value for name in table.columns[:2]]
    others = (("accuracy@strict", "Finding"), ("accuracy@0.5", "Opposite"))
    assert at_default == [table.get(*each).value for each in others]


def test_each_label_has_its_own_default_point(tmp_path: Path, predictions: str) -> None:
    labels = label_csv(tmp_path, "path,Finding,Opposite\n0.png,1,1\n1.png,0,0\n")
    points = {
        "Finding": {"default": 0.75, "loose": 0.25, "strict": 0.75},
        "Opposite": {"default": 0.3, "strict": 0.8, "loose": 0.3},
    }
    result = evaluate(predictions, labels, points, QUICK, against=predictions, other_points=points)
    assert list(result.points) == ["default", "loose", "strict", "0.5"]
    assert result.points["default"] == [0.75, 0.3]
    assert result.defaults == ("strict", "loose")
    about = describe(result, predictions, {}, predictions)
    assert about["default points"] == "strict: Finding; loose: Opposite"
    assert about["both models"] == "the scores are the same"
    assert result.compared == ("auc", "sensitivity@default", "specificity@default")
    assert f"Opposite,{predictions},threshold@default,0.300000" in to_csv(result)


def test_a_constant_guess_stands_beside_the_model(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth = (random.random((500, 3)) < (0.05, 0.4, 0.8)).astype(float)
    truth[::2, 2] = np.nan
    known = ~np.isnan(truth)
    paths = [f"{i}.png" for i in range(500)]
    predictions = write_predictions(tmp_path / "out.csv", "ABC", paths, random.random((500, 3)))
    lines = [
        f"{path},{','.join(f'{label:.0f}' for label in row).replace('nan', '')}\n"
        for path, row in zip(paths, truth, strict=True)
    ]
    result = evaluate(predictions, label_csv(tmp_path, "path,A,B,C\n" + "".join(lines)), {}, QUICK)
    share = np.nanmean(truth, axis=0)
    guess = np.broadcast_to(share, truth.shape)
    assert result.guess.get("auc", "micro").value == pytest.approx(
        sklearn.roc_auc_score(truth[known], guess[known])
    )
    assert result.guess.get("auc", "micro").value > 0.75
    assert result.everyone.get("auc", "micro").value < 0.6
    assert result.guess.get("auc", "macro").value == pytest.approx(0.5)
    assert {point for _, at, point in (name.partition("@") for name in result.guess.measures) if at} == {
        "0.5"
    }  # not at "default", which is another threshold for the model
    assert result.guess.get("accuracy@0.5", "micro").value == pytest.approx(
        np.maximum(guess, 1 - guess)[known].mean()
    )


def test_one_class_leaves_empty_cells(tmp_path: Path, predictions: str) -> None:
    text = "Path,Finding,Opposite\n0.png,1,1\n1.png,-1,1\n2.png,,1\n3.png,0.0,\n"
    result = evaluate(predictions, label_csv(tmp_path, text), {"Finding": {"default": 0.5}}, QUICK)
    rows = {(row["label"], row["metric"]): row for row in tidy(result) if row["group"] == "all"}
    assert rows["Finding", "auc"] == {
        "label": "Finding",
        "group": "all",
        "metric": "auc",
        "value": "1.000000",
        "low": "",
        "high": "",
        "n": "2",
    }
    for metric in ("auc", "average_precision", "specificity@0.5", "ppv@0.5", "npv@0.5", "f1@0.5"):
        assert rows["Opposite", metric]["value"] == "", metric
    assert rows["Opposite", "positives"]["value"] == "3"
    assert rows["Opposite", "sensitivity@0.5"]["value"] == "0.000000"  # .1, .2 and .3 are all below
    assert rows["Finding", "threshold@default"]["value"] == "0.5000000"
    assert rows["macro", "auc"]["value"] == "1.000000"


def test_the_threshold_in_the_table_is_the_one_that_was_taken(tmp_path: Path) -> None:
    """Midway between two scores of six decimals."""
    predictions = write_predictions(tmp_path / "out.csv", "A", ["0.png", "1.png"], np.zeros((2, 1)))
    labels = label_csv(tmp_path, "path,A\n0.png,0\n1.png,1\n")
    result = evaluate(predictions, labels, {"A": {"default": 0.0000485}}, Protocol(resamples=0))
    (row,) = (row for row in tidy(result) if row["metric"] == "threshold@default")
    assert row["value"] == "0.0000485"


@pytest.mark.parametrize(
    ("policy", "known", "positives"), [("ignore", 3, 1), ("positive", 5, 3), ("negative", 5, 1)]
)
def test_uncertain_and_blank_labels_go_by_policy(
    tmp_path: Path, predictions: str, policy: str, known: int, positives: int
) -> None:
    labels = label_csv(tmp_path, "path,Finding\n0.png,1\n1.png,-1\n2.png,\n3.png,0\n4.png,0\n")
    policies = read_policies([policy])
    protocol = Protocol(uncertain=policies, blank=policies, resamples=0)
    table = evaluate(predictions, labels, {}, protocol).everyone
    assert (table.known["Finding"], table.positives["Finding"]) == (known, positives)


def test_a_label_may_have_a_policy_of_its_own(tmp_path: Path, predictions: str) -> None:
    labels = label_csv(tmp_path, "path,Finding,Opposite\n0.png,1,-1\n1.png,-1,-1\n2.png,,0\n3.png,0,\n")
    uncertain = read_policies(["negative", "Finding=positive"])
    blank = read_policies(["positive", "Finding=negative"])
    result = evaluate(predictions, labels, {}, Protocol(uncertain=uncertain, blank=blank, resamples=0))
    assert (result.everyone.positives["Finding"], result.everyone.positives["Opposite"]) == (2, 1)
    assert (result.everyone.known["Finding"], result.everyone.known["Opposite"]) == (4, 4)
    said = describe(result, predictions, {})["uncertain labels"]
    assert said == "taken as negative; of Finding taken as positive"
    with pytest.raises(UsageError, match="has no label Fnding"):
        evaluate(predictions, labels, {}, Protocol(blank=read_policies(["Fnding=positive"])))
    with pytest.raises(UsageError, match="has no label path"):
        evaluate(predictions, labels, {}, Protocol(blank=read_policies(["path=positive"])))
    for word in ("perhaps", "=positive"):
        with pytest.raises(UsageError, match=f"{word} is none of negative, positive, ignore"):
            read_policies([word])


def test_nothing_left_over_is_allowed_when_strict(tmp_path: Path, predictions: str) -> None:
    labels = label_csv(tmp_path, "path,Finding\n0.png,1\nelsewhere.png,0\n")
    with pytest.raises(
        TableError,
        match=r"out\.csv and .*labels\.csv: 1 prediction without a score; 5 scored images without labels; "
        "1 line of labels without",
    ):
        read_cases(predictions, labels, Protocol(strict=True))


def test_what_the_other_model_leaves_over_counts_too(tmp_path: Path) -> None:
    labels = label_csv(tmp_path, "path,A\n0.png,1\n1.png,0\n2.png,0\n")
    ours = write_predictions(tmp_path / "out.csv", "A", ["0.png", "1.png"], np.zeros((2, 1)))
    other = tmp_path / "other.csv"
    other.write_text("path,status,A,note\n0.png,ok,0.5,\n1.png,failed,,why\n2.png,ok,1,\nx.png,ok,1,\n")
    assert read_cases(ours, labels, Protocol(), str(other)).left_over == {
        "lines of labels without a prediction": 1,
        f"predictions without a score in {other}": 1,
        f"scored images without labels in {other}": 1,
        "images that only the first model scored": 1,
        f"images that only {other} scored": 1,
    }
    ours = write_predictions(tmp_path / "out.csv", "A", ["0.png", "2.png"], np.zeros((2, 1)))
    labels = label_csv(tmp_path, "path,A\n0.png,1\n2.png,0\n")
    with pytest.raises(
        TableError, match=r"1 prediction without a score in .*1 scored image without labels in"
    ):
        read_cases(ours, labels, Protocol(strict=True), str(other))


def test_a_path_that_is_there_twice_is_told_with_its_file(tmp_path: Path) -> None:
    once = write_predictions(tmp_path / "once.csv", "A", ["0.png"], np.zeros((1, 1)))
    twice = write_predictions(tmp_path / "twice.csv", "A", ["x/0.png"] * 2, np.zeros((2, 1)))
    labels = label_csv(tmp_path, 'path,A,Remark\n0.png,1,"two\nlines"\n')
    for ours, against in ((twice, None), (once, twice)):
        with pytest.raises(TableError, match=r"^\S+/twice\.csv: x/0\.png is predicted twice"):
            read_cases(ours, labels, Protocol(), against)
    with pytest.raises(TableError, match=r"^the images: 0\.png is predicted twice; .* or name it once"):
        check_images(["0.png", "./0.png"], "A", labels, Protocol())
    labels = label_csv(tmp_path, 'path,A,Remark\n0.png,1,"two\nlines"\n\n1.png,1,\n./1.png,1,\n')
    with pytest.raises(TableError, match=r"labels\.csv: lines 5 and 6: 1\.png is labelled twice"):
        read_cases(once, labels, Protocol())


def test_few_patients_and_images_of_none_get_a_word(tmp_path: Path) -> None:
    paths = [f"patient{i // 2}/{i}.png" for i in range(36)] + ["ward/36.png"]
    predictions = write_predictions(tmp_path / "out.csv", "A", paths, np.linspace(0, 1, 37)[:, None])
    labels = label_csv(tmp_path, "path,A\n" + "".join(f"{path},{len(path) % 2}\n" for path in paths))
    result = evaluate(predictions, labels, {}, QUICK)
    about = describe(result, predictions, {})
    assert about["evaluated"] == "37 images of 19 patients"
    assert about["caution"].startswith("only 19 patients: the intervals are rough")
    assert about["on their own"] == "1 image whose path names no patient or study"
    by_image = evaluate(predictions, labels, {}, Protocol(group="image", resamples=0))
    assert "on their own" not in describe(by_image, predictions, {}), "each image is that"
    assert "caution" not in describe(evaluate(*simulated(tmp_path), {}, QUICK), predictions, {})


CHEXPERT = """Path,Sex,Age,AP/PA,Finding
CheXpert-v1.0/valid/patient1/study1/view1_frontal.jpg,Male,30,AP,0
CheXpert-v1.0/valid/patient1/study1/view2_lateral.jpg,Male,30,,1
CheXpert-v1.0/valid/patient1/study2/view1_frontal.jpg,Male,41,PA,0
CheXpert-v1.0/valid/patient2/study1/view1_frontal.jpg,Female,60,AP,
CheXpert-v1.0/valid/patient2/study1/view2_frontal.jpg,Female,60,PA,0
CheXpert-v1.0/valid/patient3/study1/view1_frontal.jpg,Female,59,PA,1
"""


@pytest.fixture
def chexpert(tmp_path: Path) -> tuple[str, str]:
    paths = [line.split(",")[0].removeprefix("CheXpert-v1.0/") for line in CHEXPERT.splitlines()[1:]]
    scores = np.array([[0.2], [0.9], [0.3], [0.4], [0.1], [0.6]])
    predictions = write_predictions(
        tmp_path / "out.csv", ["Finding"], [f"/data/CheXpert-v1.0/{p}" for p in paths], scores
    )
    return predictions, label_csv(tmp_path, CHEXPERT)


def test_views_of_one_score_have_that_mean(tmp_path: Path) -> None:
    images = [*(f"patient1/study1/{i}.png" for i in range(3)), "patient2/study1/0.png"]
    predictions = write_predictions(tmp_path / "out.csv", "A", images, np.full((4, 1), 0.7))
    labels = label_csv(tmp_path, "path,A\n" + "".join(f"{image},1\n" for image in images))
    cases = read_cases(predictions, labels, Protocol(by="study", views="mean"))
    assert cases.scores[:, 0].tolist() == [0.7, 0.7]
    small = tmp_path / "small.csv"
    small.write_text("path,status,A,note\n" + "".join(f"{image},ok,1e-14,\n" for image in images[2:]))
    cases = read_cases(str(small), labels, Protocol(by="study", views="mean"))
    assert cases.scores[:, 0].tolist() == [1e-14, 1e-14]
    paths = [f"patient{study}/study1/{view}.png" for study in range(4) for view in range(3)]
    views = np.array([[0.4], [0.1], [0.1], [0.1], [0.4], [0.1], [0.1], [0.1], [0.4], [0.2], [0.2], [0.2]])
    mixed = write_predictions(tmp_path / "mixed.csv", "A", paths, views)
    of_all = label_csv(tmp_path, "path,A\n" + "".join(f"{path},1\n" for path in paths))
    assert set(read_cases(mixed, of_all, Protocol(by="study", views="mean")).scores[:, 0]) == {0.2}


@pytest.mark.parametrize(
    ("views", "scores"), [("max", [0.9, 0.3, 0.4, 0.6]), ("mean", [0.55, 0.3, 0.25, 0.6])]
)
def test_a_study_takes_its_views_together(chexpert: tuple[str, str], views: str, scores: list[float]) -> None:
    protocol = Protocol(by="study", views=views)  # type: ignore[arg-type]
    tenth = Path(chexpert[0]).with_name("tenth.csv")
    tenth.write_text(Path(chexpert[0]).read_text().replace(",ok,0.", ",ok,0.0"))
    cases = read_cases(*chexpert, protocol, str(tenth))
    assert cases.table.layout == "CheXpert"
    assert cases.scores[:, 0].tolist() == pytest.approx(scores)
    assert cases.others is not None
    assert cases.others[:, 0].tolist() == pytest.approx([score / 10 for score in scores])
    assert cases.labels[:, 0].tolist() == [1, 0, 0, 1]  # a positive view decides, an unknown one does not
    assert cases.disagreeing == 1
    assert cases.groups == ["patient1", "patient1", "patient2", "patient3"]
    assert [cases.images[row].rsplit("/", 1)[1] for row in cases.picture[:, 0]] == [
        "view2_lateral.jpg",
        "view1_frontal.jpg",
        "view1_frontal.jpg",
        "view1_frontal.jpg",
    ]


def test_it_is_said_how_a_study_gets_its_label(chexpert: tuple[str, str]) -> None:
    predictions, labels = chexpert
    by_study = Protocol(by="study", resamples=0)
    about = describe(evaluate(predictions, labels, {}, by_study), predictions, {})
    assert about["label of a study"] == "positive where any view is; the views of 1 study disagree"
    Path(labels).write_text(CHEXPERT.replace("Male,30,,1", "Male,30,,0"))
    about = describe(evaluate(predictions, labels, {}, by_study), predictions, {})
    assert about["label of a study"] == "positive where any view is"
    by_image = evaluate(predictions, labels, {}, Protocol(resamples=0))
    assert "label of a study" not in describe(by_image, predictions, {})


@pytest.mark.parametrize(
    ("group", "groups"),
    [
        (None, ["patient1"] * 3 + ["patient2"] * 2 + ["patient3"]),
        (
            "study",
            ["patient1/study1"] * 2 + ["patient1/study2"] + ["patient2/study1"] * 2 + ["patient3/study1"],
        ),
        ("image", list("012345")),
        ("sex", ["Male"] * 3 + ["Female"] * 3),
    ],
)
def test_intervals_draw_what_is_asked_for(
    chexpert: tuple[str, str], group: str | None, groups: list[str]
) -> None:
    assert read_cases(*chexpert, Protocol(group=group)).groups == groups


def test_a_second_image_of_each_patient_does_not_narrow_an_interval(tmp_path: Path) -> None:
    paths = [f"p{i % 40}/{i}.png" for i in range(80)]
    scores = np.tile(np.random.default_rng(0).random(40), 2)
    predictions = write_predictions(tmp_path / "out.csv", "A", paths, scores[:, None])
    lines = [f"{path},p{i % 40},{i % 2}\n" for i, path in enumerate(paths)]
    once, twice = (
        evaluate(predictions, label_csv(tmp_path, f"path,patient,A\n{''.join(some)}"), {}, QUICK).everyone
        for some in (lines[:40], lines)
    )
    assert twice.get("auc", "A") == pytest.approx(once.get("auc", "A"))
    assert once.get("auc", "A").low < once.get("auc", "A").high


def test_what_is_not_there_cannot_be_asked_for(tmp_path: Path, predictions: str) -> None:
    labels = label_csv(tmp_path, "path,Sex,Finding\n0.png,M,1\n")
    with pytest.raises(UsageError, match=r"--by study: .* has no column study"):
        evaluate(predictions, labels, {}, Protocol(by="study"))
    with pytest.raises(
        UsageError, match=r"--group patient: .* has no such column; it has path, Sex, Finding"
    ):
        evaluate(predictions, labels, {}, Protocol(group="patient"))
    assert read_cases(predictions, labels, Protocol()).group == "image"
    labels = label_csv(tmp_path, "path,Site,Finding\n0.png,A,1\n1.png, ,1\n")
    with pytest.raises(TableError, match="line 3 has no Site"):
        read_cases(predictions, labels, Protocol(group="Site"))
    labels = label_csv(tmp_path, "path,Site,Finding\n0.png,A,1\n1.png,A ,1\n")
    assert set(read_cases(predictions, labels, Protocol(group="Site")).groups) == {"A"}


def simulated(tmp_path: Path, seed: int = 0, images: int = 600) -> tuple[str, str]:
    """Patients of two sexes; the score sees the finding in men, and nothing in women.

    Of the first ten patients the sex is not told. Predictions are in another order than labels.
    """
    random = np.random.default_rng(seed)
    paths = [f"p{i // 2}/{i}.png" for i in range(images)]
    sex = np.repeat(random.integers(0, 2, images // 2), 2)
    truth = (random.random(images) < 0.4).astype(int)
    scores = 1 / (1 + np.exp(-random.normal(2.0 * truth * sex)))
    ages = random.integers(20, 90, images)
    told = ["" if i < 20 else "FM"[sex[i]] for i in range(images)]
    lines = [
        f"{path},{path.split('/')[0]},{told[i]},0{ages[i]}Y,{truth[i]}\n" for i, path in enumerate(paths)
    ]
    labels = tmp_path / "simulated.csv"
    labels.write_text("path,Patient ID,Sex,Age,Finding\n" + "".join(lines))
    scores_csv = tmp_path / "scores.csv"
    return write_predictions(scores_csv, ["Finding"], paths[::-1], scores[::-1, None]), str(labels)


def test_subgroups_show_where_it_fails(tmp_path: Path) -> None:
    protocol = Protocol(subgroups=("Sex", "Age:40,60"), resamples=200)
    predictions, labels = simulated(tmp_path)
    result = evaluate(predictions, labels, {}, protocol)
    subgroups = [one for split in result.splits for one in split.subgroups]
    assert [one.group.name for one in subgroups] == [
        "Sex=F",
        "Sex=M",
        "Age=under 40",
        "Age=40 to 59",
        "Age=60 and over",
    ]
    women, men, *ages = subgroups
    assert women.group.cases + men.group.cases == 580
    assert sum(one.group.cases for one in ages) == 600
    assert women.group.get("auc", "Finding").value < 0.6
    assert men.group.get("auc", "Finding").value > 0.8
    assert women.to_the_rest is not None
    assert men.to_the_rest is None, "of two values the second has the mirror of the first's difference"
    assert women.to_the_rest.get("auc", "Finding").high < 0
    difference = women.group.get("auc", "Finding").value - men.group.get("auc", "Finding").value
    assert women.to_the_rest.get("auc", "Finding").value == pytest.approx(difference)
    marked = [one for one in result.comparisons if one.difference.excludes_zero]
    assert {one.subgroup.group.name for one in marked if one.measure == "auc"} == {"Sex=F"}
    assert len(result.comparisons) == 4 * 3 * 2  # women and ages; measures; the label and macro
    assert f"Of 24 comparisons with the rest {len(marked)} are marked" in chance(result)
    assert "1 in 20, here about 1" in chance(result)
    alone = read_cases(predictions, labels, protocol)
    rows = alone.table.cells["Sex"].to_numpy()[alone.lines] == "M"
    expected = sklearn.roc_auc_score(alone.labels[rows], alone.scores[rows])
    assert men.group.get("auc", "Finding").value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sexes", "resamples", "why"),
    [
        ("FFFFFF", 20, "no subgroup has a rest to be compared with"),
        ("FFFFFF", 0, "no subgroup has a rest to be compared with"),
        ("FMFMFM", 0, "--resamples 0 asks for none"),
        ("FMFMFM", 20, "too few patients have a class that it needs"),
    ],
)
def test_it_is_said_why_no_comparison_has_an_interval(
    tmp_path: Path, predictions: str, sexes: str, resamples: int, why: str
) -> None:
    lines = [f"{row}.png,{sexes[row]},{finding}\n" for row, finding in enumerate(FINDING)]
    labels = label_csv(tmp_path, "path,Sex,Finding\n" + "".join(lines))
    protocol = Protocol(subgroups=("Sex",), resamples=resamples)
    said = chance(evaluate(predictions, labels, {}, protocol))
    assert said == f"No comparison with the rest has an interval: {why}."


def test_means_of_subgroups_are_over_labels_that_all_of_them_have(tmp_path: Path) -> None:
    sexes = ["F"] * 20 + ["M"] * 20 + ["?"] * 4
    random = np.random.default_rng(0)
    truth = np.tile([[0, 1, 0], [1, 0, 0]], (22, 1)).astype(object)
    truth[:20, 1] = ""  # women lack the second label; nobody has the third; "?" are too few to count
    truth[40:, 0] = 1
    scores = random.random((44, 3))
    predictions = write_predictions(tmp_path / "out.csv", "ABC", [f"{i}.png" for i in range(44)], scores)
    lines = [f"{i}.png,{sexes[i]},{','.join(map(str, row))}\n" for i, row in enumerate(truth)]
    labels = label_csv(tmp_path, "path,Sex,A,B,C\n" + "".join(lines))
    result = evaluate(predictions, labels, {}, Protocol(subgroups=("Sex",), resamples=20))
    (split,) = result.splits
    unknown, women, men = split.subgroups
    assert (result.everyone.over, split.everyone.over) == (("A", "B"), ("A",))
    for group in (women.group, men.group):
        assert group.get("auc", "macro").value == pytest.approx(group.get("auc", "A").value)
        assert group.get("brier", "macro").value == group.get("brier", "A").value
    assert split.everyone.get("auc", "macro").value == result.everyone.get("auc", "A").value
    assert unknown.group.over == ()
    assert math.isnan(unknown.group.get("auc", "macro").value)
    assert women.to_the_rest is not None
    assert women.to_the_rest.over == ("A",)
    about = describe(result, predictions, {})
    assert about["macro mean"] == "over 2 of 3 labels, without C (one class only)"
    assert about["macro means by Sex"] == "over 1 of 2 labels, without B (one class only in a subgroup)"
    assert about["no macro mean by Sex"] == (
        "Sex=? (too few patients or labels: both classes for 1 of 3 labels)"
    )
    rows = {(row["label"], row["group"], row["metric"]): row["value"] for row in tidy(result)}
    kept = [rows["macro", group, "labels"] for group in ("all", "Sex: all", "Sex=F", "Sex=?")]
    assert kept == ["2", "1", "1", "0"]
    assert rows["macro", "Sex: all", "auc"] == rows["A", "all", "auc"]


def test_a_subgroup_that_lacks_most_labels_does_not_narrow_the_means_of_others(tmp_path: Path) -> None:
    truth = np.tile([[0, 1, 0], [1, 0, 1]], (20, 1))
    truth[:12, 1:] = 0  # young people have but the first finding
    predictions = write_predictions(
        tmp_path / "out.csv", "ABC", [f"{i}.png" for i in range(40)], np.random.default_rng(0).random((40, 3))
    )
    who = [("20", "school") if i < 12 else ("50", "office") for i in range(40)]
    lines = [f"{i}.png,{','.join((*who[i], *map(str, row)))}\n" for i, row in enumerate(truth)]
    labels = label_csv(tmp_path, "path,Age,Site,A,B,C\n" + "".join(lines))
    points = {"A": {"default": 0.5}, "B": {"default": 0.4, "youden": 0.4}}
    result = evaluate(predictions, labels, points, Protocol(subgroups=("Age:40", "Site"), resamples=20))
    young, old = result.splits[0].subgroups
    assert (young.group.over, old.group.over) == ((), ("A", "B", "C"))
    office, _ = result.splits[1].subgroups
    assert office.group.over == ("A", "B", "C")
    assert office.to_the_rest is not None
    assert office.to_the_rest.over == (), "a mean over fewer labels is another one than that beside it"
    assert not math.isnan(office.to_the_rest.get("auc", "A").value)
    rows = {(row["label"], row["group"], row["metric"]): row["value"] for row in tidy(result)}
    assert rows["macro", "all", "labels@youden"] == "1"
    assert rows["macro", "Age=under 40", "auc"] == ""


@pytest.mark.parametrize(
    ("protocol", "against", "said"),
    [
        (Protocol(group="Site"), None, "--group Site"),
        (Protocol(by="study"), None, "--by study"),
        (Protocol(subgroups=("Sex", "Weight")), None, "no column Weight"),
        (Protocol(), "none.csv", "none.csv: the predictions cannot be read"),
        (Protocol(strict=True), None, "2 lines of labels without a prediction"),
    ],
)
def test_what_cannot_be_is_refused_before_images_are_scored(
    tmp_path: Path, protocol: Protocol, against: str | None, said: str
) -> None:
    _, labels = simulated(tmp_path, images=40)
    images = [f"films/p{i // 2}/{i}.png" for i in range(38)]
    check_images(images, ["Finding"], labels, Protocol(subgroups=("Sex",)))
    with pytest.raises(ChexscoreError, match=said):
        check_images(images, ["Finding"], labels, protocol, against)


@pytest.mark.parametrize(
    ("subgroup", "said"),
    [
        ("Weight", "no column Weight"),
        ("Sex:40", "'[MF]' is no number"),
        ("Age:60,40", "edges must rise"),
        ("Age", "give edges, such as Age:40,60"),
        ("Age:30,50 age:30,60", "Age is asked for twice"),
        ("Blank", "Blank is blank for all that is evaluated"),
        ("Blank:40", "Blank is blank for all that is evaluated"),
    ],
)
def test_subgroups_that_cannot_be_are_refused(tmp_path: Path, subgroup: str, said: str) -> None:
    predictions, labels = simulated(tmp_path)
    lines = Path(labels).read_text().splitlines()
    Path(labels).write_text("\n".join([f"{lines[0]},Blank", *(f"{line}, " for line in lines[1:])]))
    with pytest.raises(UsageError, match=said):
        evaluate(predictions, labels, {}, Protocol(subgroups=tuple(subgroup.split()), resamples=0))


def test_an_edge_begins_the_group_above_it(tmp_path: Path) -> None:
    ages = ("39.5", "40", "", "060Y", "90+", "> 89", "480M", "not told", "41 years")
    assert binned(tmp_path, ages, "age:40,60") == [
        ("under 40", 1),
        ("40 to 59", 3),
        ("60 and over", 3),
        ("unknown", 1),
    ]
    children = (
        "6M",
        "6 months",
        "10 days",
        "3 wks",
        "000D",
        "1",
        "<1",
        "<= 1",
        "≥ 5",
        ">3",
        "2 m",
        "36 hours",
        "6 mths",
        "9 Monate",
        "90+",
        "4+",
    )
    assert binned(tmp_path, children, "Age:1,5") == [
        ("under 1", 8),
        ("1 to 4", 1),
        ("5 and over", 2),
        ("unknown", 5),
    ]

    stays = ("38 weeks", "36 weeks", "40 wks")
    assert binned(tmp_path, stays, "Age:37,40") == [("under 37", 1), ("37 to 39", 1), ("40 and over", 1)]
    assert binned(tmp_path, ("90+", "89+"), "Age:95") == [("unknown", 2)]
    assert binned(tmp_path, ("12 h", "36 h"), "Age:24") == [("under 24", 1), ("24 and over", 1)]
    dates = [("under 20200102", 1), ("20200102 to 20200102", 1), ("20200103 and over", 2)]
    assert (
        binned(tmp_path, ("20200101", "20200102", "20200103", "20200104"), "Age:20200102,20200103") == dates
    )


def test_what_is_in_no_group_for_sure_is_compared_with_none(tmp_path: Path) -> None:
    images = [f"{i}.png" for i in range(60)]
    predictions = write_predictions(
        tmp_path / "out.csv", "A", images, np.random.default_rng(0).random((60, 1))
    )
    ages = ["n. a." if i < 2 else "35" if i < 30 else "45" for i in range(60)]
    prior = ["unknown" if i % 4 < 2 else "known" for i in range(60)]
    lines = [f"{image},{ages[i]},{prior[i]},{i % 2}\n" for i, image in enumerate(images)]
    labels = label_csv(tmp_path, "path,Age,Prior,A\n" + "".join(lines))
    result = evaluate(predictions, labels, {}, Protocol(subgroups=("Age:40", "Prior"), resamples=20))
    young, old, unknown = result.splits[0].subgroups
    assert (unknown.value, unknown.group.cases) == ("unknown", 2)
    assert unknown.to_the_rest is old.to_the_rest is None
    assert young.to_the_rest is not None
    difference = young.group.get("auc", "A").value - old.group.get("auc", "A").value
    assert young.to_the_rest.get("auc", "A").value == pytest.approx(difference)
    assert result.splits[1].subgroups[0].to_the_rest is not None, "a value like any other, without edges"


def binned(folder: Path, ages: Sequence[str], subgroup: str) -> list[tuple[str, int]]:
    """The subgroups, and how many images are in each."""
    images = [f"{i}.png" for i in range(len(ages))]
    predictions = write_predictions(folder / "out.csv", "A", images, np.zeros((len(ages), 1)))
    lines = [f"{image},{age},1\n" for image, age in zip(images, ages, strict=True)]
    labels = label_csv(folder, "path,Age,A\n" + "".join(lines))
    result = evaluate(predictions, labels, {}, Protocol(subgroups=(subgroup,), resamples=0))
    return [(one.value, one.group.positives["A"]) for one in result.splits[0].subgroups]


def test_a_study_whose_views_differ_is_in_a_subgroup_of_its_own(chexpert: tuple[str, str]) -> None:
    result = evaluate(*chexpert, {}, Protocol(by="study", subgroups=("AP/PA", "sex"), resamples=0))
    assert [(one.value, one.group.cases) for split in result.splits for one in split.subgroups] == [
        ("AP", 1),
        ("PA", 2),
        ("several", 1),
        ("Female", 2),
        ("Male", 2),
    ]


def test_a_column_that_is_named_so_comes_before_one_of_other_capitals(tmp_path: Path) -> None:
    predictions = write_predictions(
        tmp_path / "out.csv", "A", [f"{i}.png" for i in range(4)], np.zeros((4, 1))
    )
    sites = ("x", "x", "several", "several")
    lines = [f"{i}.png,{i},{site},{i % 2}\n" for i, site in enumerate(sites)]
    labels = label_csv(tmp_path, "path,SITE,site,A\n" + "".join(lines))
    result = evaluate(predictions, labels, {}, Protocol(subgroups=("site",), group="site", resamples=0))
    found = [(one.value, one.group.cases) for one in result.splits[0].subgroups]
    assert found == [("several", 2), ("x", 2)]
    assert (result.splits[0].column, result.cases.group) == ("site", "site")


def test_two_models_are_compared_on_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    predictions, labels = simulated(tmp_path)
    cases = read_cases(predictions, labels, Protocol())
    random = np.random.default_rng(1)
    noisy = np.clip(cases.scores + random.normal(0, 0.02, cases.scores.shape), 0, 1)
    worse = np.clip(cases.scores + random.normal(0, 0.5, cases.scores.shape), 0, 1)
    some = random.permutation(len(cases.images))[5:]
    for others, marked in ((noisy, False), (worse, True)):
        # In a file that is called what we call everyone.
        against = write_predictions(
            Path("all"), ["Finding", "More"], [cases.images[row] for row in some], np.c_[others, others][some]
        )
        result = evaluate(predictions, labels, {}, Protocol(resamples=200), against=against)
        assert result.cases.left_over == {"images that only the first model scored": 5}
        assert result.other is not None
        assert result.difference is not None
        found = result.difference.get("auc", "Finding")
        areas = [group.get("auc", "Finding").value for group in (result.everyone, result.other)]
        assert found.value == pytest.approx(areas[0] - areas[1])
        assert areas[1] == pytest.approx(sklearn.roc_auc_score(cases.labels[some], others[some]), abs=1e-4)
        assert found.excludes_zero is marked
    assert f"all minus {against}" in to_csv(result)


def test_data_and_what_was_evaluated_come_as_json(tmp_path: Path) -> None:
    predictions, labels = simulated(tmp_path, images=40)
    result = evaluate(predictions, labels, {"Finding": {"youden": 0.4}}, QUICK)
    about = describe(result, predictions, {"name": "m", "version": "1", "sha256": "abc"})
    found = json.loads(to_json(result, about))
    assert found["evaluated"]["model"] == "m 1"
    assert found["evaluated"]["sha256 of model"] == "abc"
    assert found["evaluated"]["evaluated"] == "40 images of 20 patients"
    table = {(row["label"], row["group"], row["metric"]): row for row in found["table"]}
    assert table["Finding", "all", "threshold@youden"]["value"] == 0.4
    assert table["Finding", "all", "threshold@youden"]["low"] is None
    assert table["micro", "constant guess", "auc"]["value"] == pytest.approx(0.5)
    auc = table["Finding", "all", "auc"]
    assert auc["low"] < auc["value"] < auc["high"]
    assert auc["n"] == 40


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,Other\n0.png,1\n", "a column for none of the model's labels: .*; its own labels are Other"),
        ("path,Finding\n0.png,-1\n1.png,\n", "no label is known of the 2 images, .* --uncertain or --blank"),
        ("path,Finding\n0.png,1\n\n1.png,yes\n", "column Finding, line 4: 'yes'"),
        ("path,patient,Finding\n\n0.png,p1,1\n1.png,,1\n", "line 4 has no patient"),
        ("\n\npath,patient,Finding\n0.png,p1,1\n1.png,,1\n", "line 5 has no patient"),
        ("sep=,\npath,Finding\n0.png,1\n", r"first line, sep=,, is for Excel alone; delete it"),
        ("file,Finding\n0.png,1\n", "no column path"),
        ("path,Finding\n", "no rows"),
        ("path,Finding\nelsewhere.png,1\n", "names no scored image; .* cut the first folders"),
        ("path,Finding\n0.png,yes\n", r"column Finding, line 2: 'yes'"),
        ("path,Finding\n0.png,2\n", r"column Finding, line 2: '2'"),
        ("", "no rows"),
        ("path;Finding\n0.png;1\n", "semicolons"),
        ("path\tFinding\n0.png\t1\n", "tabs"),
        ("path,Finding, Finding\n0.png,1,1\n", "two columns are called 'Finding'"),
        ("path,Finding\n0.png,1\n1.png,1,\n", "line 3 has 3 cells, the header 2; .* quotation marks"),
        ("path,Finding\n0.png,1\n0.png,1\n", "0.png is labelled twice"),
        ("path,patient,Finding\n0.png,p1,1\n1.png,,1\n", "line 3 has no patient"),
        ("path,Finding\n0.png,1\n,\n,\n", "line 3 has no path"),
        ("Image Index,Finding Labels\n0.png,Mass\n ,Mass\n", "line 3 has no Image Index"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(
    tmp_path: Path, predictions: str, text: str, said: str
) -> None:
    with pytest.raises(TableError, match=said):
        evaluate(predictions, label_csv(tmp_path, text), {})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,Finding\n0.png,1\n".encode("utf-16"), "not UTF-8 text"),
        ("path,Trübung\n0.png,1\n".encode("latin-1"), "first line is not UTF-8"),
        (
            b"path,status,Finding,note\n0.png,ok,1.5,\n",
            "line 2 is not a row of predictions: a score outside 0..1",
        ),
        (b"path,status,Finding,note\n0.png,ok,nan,\n", "a score outside 0..1"),
        (b"path;status;Finding;note\n0.png;ok;0,5;\n", "semicolons"),
        (b"path,status,Finding,note\n0.png,ok,1,\n0.png,ok,1,\n", "0.png is predicted twice"),
        (b"path,status,A,A,note\n0.png,ok,1,1,\n", "two columns are called 'A'"),
        (
            b"path,status,A,note\n0.png,unreadable,,empty\n",
            "has 1 image, and no score, .* because: empty",
        ),
        (b"path,status,A,note\n", "has 0 images, and no score"),
        (b"path,status,macro,note\n0.png,ok,1,\n", r"out\.csv: a label of the model is called macro"),
    ],
)
def test_predictions_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "out.csv").write_bytes(content)
    labels = label_csv(tmp_path, "path,Finding\n0.png,1\n")
    with pytest.raises(TableError, match=said):
        evaluate(str(tmp_path / "out.csv"), labels, {})


def test_the_competition_findings_have_their_mean(tmp_path: Path) -> None:
    names = ["Fracture", "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (60, 6))
    paths = [f"{i}.png" for i in range(60)]
    predictions = write_predictions(tmp_path / "out.csv", names, paths, random.random((60, 6)))
    rows = [f"{path},{','.join(map(str, row))}\n" for path, row in zip(paths, truth, strict=True)]
    labels = label_csv(tmp_path, f"path,{','.join(names)}\n" + "".join(rows))
    table = evaluate(predictions, labels, {}, QUICK).everyone
    each = [table.get("auc", name).value for name in names]
    assert table.get("auc", "CheXpert 5").value == pytest.approx(np.mean(each[1:]))
    assert "CheXpert 5" not in describe(evaluate(predictions, labels, {}, QUICK), predictions, {})
    assert table.get("auc", "macro").value == pytest.approx(np.mean(each))


def test_models_whose_points_are_known_on_one_side_alone_are_not_compared_there(
    tmp_path: Path, predictions: str
) -> None:
    lines = [f"{row}.png,{finding}\n" for row, finding in enumerate(FINDING)]
    labels, points = label_csv(tmp_path, "path,Finding\n" + "".join(lines)), {"Finding": {"default": 0.75}}
    of_another_name = {"Found": {"default": 0.75}}
    for ours, theirs in ((points, {}), ({}, points), (points, of_another_name)):
        evaluated = evaluate(predictions, labels, ours, QUICK, against=predictions, other_points=theirs)
        table = to_csv(evaluated).splitlines()
        of_difference = [line for line in table if f"all minus {predictions}" in line]
        assert any("accuracy@0.5" in line for line in of_difference)
        assert not any("@default" in line for line in of_difference)
        assert any(f"Finding,{predictions},accuracy@default" in line for line in table)
        about = describe(evaluated, predictions, {}, predictions)
        assert "not compared" in about["at the default"]
    for both in (points, {}):
        same = to_csv(evaluate(predictions, labels, both, QUICK, against=predictions, other_points=both))
        assert f"Finding,all minus {predictions},accuracy@default,0.000000" in same


def test_points_of_some_labels_are_pooled_and_compared_over_these(tmp_path: Path, predictions: str) -> None:
    lines = [f"{row}.png,{finding},{1 - finding}\n" for row, finding in enumerate(FINDING)]
    labels = label_csv(tmp_path, "path,Finding,Opposite\n" + "".join(lines))
    half = {"default": 0.5}
    ours = {"Finding": {**half, "youden": 0.75}, "Opposite": half}
    theirs = {"Finding": half, "Opposite": {**half, "youden": 0.75}}
    result = evaluate(predictions, labels, ours, QUICK, against=predictions, other_points=theirs)
    rows = {(row["label"], row["group"], row["metric"]): row for row in tidy(result)}
    counts = ("true_positives", "false_positives", "false_negatives", "true_negatives")
    for group in ("all", predictions):
        pooled = [rows["micro", group, f"{metric}@youden"] for metric in counts]
        assert sum(int(row["value"]) for row in pooled) == 6
        assert {row["n"] for row in [*pooled, rows["micro", group, "accuracy@youden"]]} == {"6"}
        assert rows["micro", group, "accuracy@0.5"]["n"] == rows["micro", group, "auc"]["n"] == "12"
    difference = f"all minus {predictions}"
    assert rows["micro", difference, "specificity@youden"]["value"] == ""
    assert rows["micro", difference, "specificity@0.5"]["value"] == "0.000000"
    said = describe(result, predictions, {}, predictions)["micro values"]
    assert said == "not compared at youden: the models have it for different labels"
    same = evaluate(predictions, labels, ours, QUICK, against=predictions, other_points=ours)
    assert "micro values" not in describe(same, predictions, {}, predictions)


def test_it_is_said_where_patients_are_not_known(tmp_path: Path, predictions: str) -> None:
    labels = label_csv(tmp_path, "path,MRN,Finding\n0.png,7,1\n1.png,8,0\n")
    unknown = evaluate(predictions, labels, {}, QUICK)
    assert "CheXpert 5" not in describe(unknown, predictions, {}), "other labels have no such mean"
    assert "give --group COLUMN" in describe(unknown, predictions, {})["patients"]
    silent = evaluate(predictions, labels, {}, Protocol(resamples=0))
    assert "patients" not in describe(silent, predictions, {})
    for group in ("MRN", "image"):
        known = evaluate(predictions, labels, {}, Protocol(resamples=20, group=group))
        assert "patients" not in describe(known, predictions, {})


def test_patients_of_one_name_in_two_folders_are_refused_where_they_count(tmp_path: Path) -> None:
    paths = [f"site{site}/patient{number}/study1/a.png" for site in "AB" for number in (1, 2, 3)]
    predictions = write_predictions(tmp_path / "out.csv", ["A"], paths, np.linspace(0.1, 0.9, 6)[:, None])

    def found(columns: str, protocol: Protocol) -> Evaluation:
        lines = "".join(f"{path},{row},{row % 2}\n" for row, path in enumerate(paths))
        return evaluate(predictions, label_csv(tmp_path, f"path,{columns},A\n{lines}"), {}, protocol)

    for protocol in (QUICK, Protocol(resamples=0), Protocol(by="study", group="image")):
        with pytest.raises(TableError, match="below different folders"):
            found("PID", protocol)
    for columns, group, number in (("PID", "PID", 6), ("PID", "image", 6), ("patient", None, 6)):
        assert len(set(found(columns, Protocol(resamples=20, group=group)).cases.groups)) == number
    with pytest.raises(
        TableError, match=r"their study patient1/study1 may be two; add a column patient that tells\.$"
    ):
        found("PID", Protocol(resamples=0, by="study", group="PID"))


def test_it_is_said_where_studies_are_told_by_their_names_alone(tmp_path: Path, predictions: str) -> None:
    labels = label_csv(tmp_path, "path,study,Finding\n0.png,1,1\n1.png,1,0\n2.png,2,0\n")
    for protocol, said in (
        (QUICK, True),
        (Protocol(resamples=0, by="study"), True),
        (Protocol(resamples=0, by="study", group="Finding"), True),
        (Protocol(resamples=0), False),
        (Protocol(resamples=20, group="image"), False),
    ):
        about = describe(evaluate(predictions, labels, {}, protocol), predictions, {})
        assert ("because no patients are known" in about.get("studies", "")) is said
    labels = label_csv(tmp_path, "path,patient,study,Finding\n0.png,7,1,1\n1.png,8,1,0\n")
    known = evaluate(predictions, labels, {}, Protocol(resamples=20, by="study", group="study"))
    assert "studies" not in describe(known, predictions, {})
    assert len(known.cases.labels) == 2


def test_lines_that_are_no_utf8_and_have_no_image_are_told(tmp_path: Path, predictions: str) -> None:
    (tmp_path / "labels.csv").write_bytes(b"path,Finding\n0.png,1\n1.png,0\nM\xfcller.png,1\n")
    result = evaluate(predictions, str(tmp_path / "labels.csv"), {}, QUICK)
    assert any("save the labels as CSV UTF-8" in what for what in result.cases.left_over)
    with Path(predictions).open("ab") as file:  # names that are themselves none
        file.write(b"data/Sch\xe4fer.png,ok,0.5,0.5,0.5,\n")
    result = evaluate(predictions, str(tmp_path / "labels.csv"), {}, QUICK)
    assert "lines of labels without a prediction" in result.cases.left_over
