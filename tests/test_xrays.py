"""On real X-rays, where they are."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from chexscore import Classifier, Status, find_images, load_image, runs
from chexscore.classifier import BUNDLED_MODEL
from chexscore.evaluation.cases import Protocol
from chexscore.evaluation.evaluate import evaluate
from chexscore.evaluation.points import points_and_model


@pytest.fixture(scope="module")
def scored(xrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("scored") / "out.csv"
    record = runs.run([str(xrays / "fullsize")], str(output), Classifier(device="cpu"))
    assert (record.found, record.scored, record.ignored) == (100, 100, 1)
    return output


def test_each_real_film_is_scored_in_walk_order(xrays: Path, scored: Path) -> None:
    with scored.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(find_images([xrays / "fullsize"]))
    assert {row["status"] for row in rows} == {"ok"}


def test_bad_neighbours_change_no_byte_of_the_others(xrays: Path, scored: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fullsize"
    shutil.copytree(xrays / "fullsize", folder)
    whole = (folder / "IM-0265-0001.jpeg").read_bytes()
    (folder / "IM-0266-0000-truncated.jpeg").write_bytes(whole[: len(whole) // 2])
    (folder / "0-empty.png").touch()
    (folder / "person-text.png").write_text("not an image")
    (folder / "x.png").mkdir()
    record = runs.run([str(folder)], str(tmp_path / "out.csv"), Classifier(device="cpu"))
    assert record.failed == {"unreadable": 3}
    lines = (tmp_path / "out.csv").read_bytes().replace(str(folder).encode(), b"F").splitlines(keepends=True)
    before = scored.read_bytes().replace(str(xrays / "fullsize").encode(), b"F").splitlines(keepends=True)
    assert [line for line in lines if b",unreadable,,,," not in line] == before
    assert len(lines) == len(before) + 3


def test_labels_with_shorter_paths_join(xrays: Path, scored: Path) -> None:
    points, _ = points_and_model(str(scored))
    protocol = Protocol(subgroups=("source",), resamples=100)
    found = evaluate(str(scored), str(xrays / "fullsize" / "labels.csv"), points, protocol)
    assert (len(found.cases.labels), found.cases.left_over) == (100, {})
    assert (found.everyone.known["Pneumonia"], found.everyone.positives["Pneumonia"]) == (100, 51)
    assert found.everyone.get("auc", "Pneumonia").value > 0.95
    # Five of the films are of adults, of whom the bundled network knows nothing.
    (children,) = (each.group for each in found.splits[0].subgroups if each.value == "Kermany")
    assert children.get("auc", "Pneumonia").value > 0.99


def test_real_dicom_files_are_read_or_refused_and_never_guessed(xrays: Path) -> None:
    from chexscore import predict

    results = {Path(result.path).stem: result.status for result in predict(xrays / "dicom")}
    assert len(results) == 6
    assert results["chest_dx_mono2_implicit_le"] is Status.OK
    assert results["tibia_cr_mono1_rle"] is Status.OK
    assert results["tibia_cr_jpeg_extended12"] is Status.UNSUPPORTED


CARD_ROW = re.compile(
    r"^\| (\w+) \| (\d+) \| (\d+) \| (\.\d+) \((\.\d+) to (\.\d+)\) \| (\.\d+) \| (\.\d+) \|$", re.MULTILINE
)


def test_the_bundled_model_does_what_its_card_says(xrays: Path, tmp_path: Path) -> None:
    """By the card's own steps: the split of the recipe, predict and eval."""
    from training.beside import adults
    from training.config import TrainConfig
    from training.splits import divide, write

    data = xrays / "kermany224"
    recipe = TrainConfig.from_toml(Path("training/configs/kermany.toml")).data
    write(*divide(data, recipe.model_copy(update={"training_list": ""})), tmp_path)  # which moves no one
    with (tmp_path / "validation.csv").open(newline="") as file:
        films = [str(data / row["path"]) for row in csv.DictReader(file)]
    output, classifier = str(tmp_path / "out.csv"), Classifier(device="cpu")
    runs.run(films, output, classifier)
    points, _ = points_and_model(output)
    everyone = evaluate(output, str(tmp_path / "validation.csv"), points, Protocol()).everyone

    card = Path(BUNDLED_MODEL).with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    rows = CARD_ROW.findall(card)
    assert [row[0] for row in rows] == list(classifier.spec.labels)
    for label, images, positives, *figures in rows:
        assert (int(images), int(positives)) == (everyone.known[label], everyone.positives[label])
        auc = everyone.get("auc", label)
        found = [everyone.get(f"{measure}@default", label) for measure in ("sensitivity", "specificity")]
        measured = [auc.value, auc.low, auc.high, *(each.value for each in found)]
        assert [float(each) for each in figures] == pytest.approx(measured, abs=0.0006)

    grown = adults(xrays / "nih64", left_out=True)["path"]
    pixels = np.stack([load_image(str(xrays / "nih64" / path), classifier.spec.image) for path in grown])
    scores = classifier.score(pixels)[:, 0]
    assert scores.max() < classifier.spec.thresholds[0], "it calls one of the adults ill"
    assert np.mean((scores > 0.505) & (scores < 0.605)) > 0.9, "nine in ten score between .51 and .60"
