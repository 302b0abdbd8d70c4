import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexscore.errors import TableError, UsageError
from chexscore.labels import Policy, to_targets
from chexscore.spec import ImageSpec, ModelSpec
from tests.phantoms import write_dataset
from training import __main__ as command
from training.config import DataConfig, NetworkConfig, TrainConfig
from training.datasets import read_table
from training.prepare import prepare
from training.splits import by_patient

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
SMOKE = CONFIGS / "smoke.toml"


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_each_recipe_that_ships_can_be_read(recipe: Path) -> None:
    config = TrainConfig.from_toml(recipe)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not a TOML file"),
        ('name = "x"', "data: Field required"),
        ('name = "x"\nlearning_rates = 1\n[data]\nlabels = ["A"]', "learning_rates: Extra inputs"),
        ('name = "x"\n[data]\nlabels = []', "data.labels"),
        ('name = "x"\n[data]\nlabels = ["A"]\nuncertain = {A = "maybe"}', "data.uncertain.A"),
        ('name = "x"\n[data]\nlabels = ["A", "A"]', "is named twice"),
        ('name = "x"\n[data]\nlabels = ["status"]', "cannot be called 'status'"),
        ('name = "x"\n[data]\nlabels = ["A"]\nblank = {B = "ignore"}', "a policy for 'B'"),
        ('name = "x"\n[data]\nlabels = ["A"]\n[network]\nname = "resnet"', "network.name"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_field(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        TrainConfig.from_toml(tmp_path / "recipe.toml")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml"):
        TrainConfig.from_toml(tmp_path / "none.toml")


CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Fracture
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,-1.0,1.0
CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Female,83,Lateral,,,0.0,-1.0
"""


def test_chexperts_own_table_and_the_policies_for_uncertain_and_blank(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(CHEXPERT)
    data = DataConfig(layout="chexpert", table="train.csv", labels=("Edema", "Fracture"), validation=0.5)
    table = read_table(tmp_path, data)
    assert table["path"].iloc[0] == "train/patient00001/study1/view1_frontal.jpg"
    assert list(table["patient"]) == ["patient00001", "patient00002", "patient00002"]
    targets = to_targets(
        table,
        data.labels,
        "train.csv",
        uncertain={"Edema": "positive", "default": "ignore"},
        blank={"default": "negative", "Fracture": "ignore"},
    )
    np.testing.assert_array_equal(targets, [[0, np.nan], [1, 1], [0, np.nan]])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,Opacity\na.png,1\n", "no column 'patient'"),
        ("path,patient\na.png,p\n", "no column 'Opacity'"),
        ("path,patient,Opacity\n", "no rows"),
        ("path,patient,Opacity\na.png,p,1\na.png,p,1\n", "a.png is named twice"),
        ("path,patient,Opacity\na.png,,1\n", "line 2 has no patient"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(TableError, match=said):
        read_table(tmp_path, DataConfig(labels=("Opacity",), validation=0.5))


def test_a_label_that_is_none_is_named_with_its_line() -> None:
    table, policies = pd.DataFrame({"A": ["1", "0.5"]}), dict[str, Policy](default="ignore")
    with pytest.raises(TableError, match=r"t\.csv: column A, line 3: '0\.5'"):
        to_targets(table, ["A"], "t.csv", uncertain=policies, blank=policies)


def test_the_split_is_by_patient_fixed_by_the_seed_and_not_by_the_order() -> None:
    patients = np.array([f"p{i % 40}" for i in range(200)])
    held_out = by_patient(patients, 0.25, seed=1)
    assert not set(patients[held_out]) & set(patients[~held_out])
    assert len(set(patients[held_out])) == 10
    assert set(patients[::-1][by_patient(patients[::-1], 0.25, seed=1)]) == set(patients[held_out])
    assert set(patients[by_patient(patients, 0.25, seed=2)]) != set(patients[held_out])
    with pytest.raises(TableError, match="fewer than two patients"):
        by_patient(np.array(["p", "p"]), 0.5, seed=0)


def test_prepare_leaves_out_what_cannot_be_read_and_does_nothing_twice(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4, size=16)
    paths = list(pd.read_csv(tmp_path / "labels.csv")["path"])
    (tmp_path / paths[1]).write_text("no image")
    (tmp_path / paths[2]).unlink()
    said: list[str] = []
    image, cache = ImageSpec(16, 16), tmp_path / "cache"
    first = prepare(tmp_path, paths, image, cache, 2, said.append)
    assert first.usable.tolist() == [i not in (1, 2) for i in range(len(paths))]
    assert sum(line.startswith("left out") for line in said) == 2
    (tmp_path / paths[0]).unlink()  # would be noticed if anything were read again
    again = prepare(tmp_path, paths, image, cache, 2, said.append)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.usable, again.usable)
    with pytest.raises(TableError, match="another image size or resize rule"):
        prepare(tmp_path, paths, ImageSpec(16, 17), cache, 2, said.append)
    with pytest.raises(TableError, match="another table"):
        prepare(tmp_path, paths[1:], image, cache, 2, said.append)
    with pytest.raises(TableError, match="not one of 2 images could be read"):
        prepare(tmp_path, paths[1:3], image, tmp_path / "none", 2, said.append)


def test_the_split_command_writes_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path, 8, size=16)
    command.split(SMOKE, tmp_path, tmp_path / "run")
    sides = [pd.read_csv(tmp_path / "run" / f"{side}.csv") for side in ("training", "validation")]
    assert not set(sides[0]["patient"]) & set(sides[1]["patient"])
    assert len(pd.concat(sides)) == len(pd.read_csv(tmp_path / "labels.csv"))
    assert "to validate on" in capsys.readouterr().err


def test_the_reference_has_the_reference_s_parameters() -> None:
    from training.networks import build

    network = build(NetworkConfig(name="reference"), ImageSpec(512, 512), 13)
    assert network.count_params() == 44_790_413
    assert network.output_shape == (None, 13)
    kinds = [type(layer).__name__ for layer in network.layers]
    block = ["Conv2D", "BatchNormalization", "MaxPooling2D", "Dropout"]
    head = ["Flatten", *["Dense", "BatchNormalization", "Dropout"] * 2, "Dense"]
    assert kinds == ["InputLayer", "Rescaling", *block * 7, *head]
    with pytest.raises(UsageError, match="at least 508 x 508"):
        build(NetworkConfig(name="reference"), ImageSpec(507, 600), 13)


def test_unknown_labels_take_no_part_in_the_loss() -> None:
    from training.batches import IGNORED
    from training.fit import masked_crossentropy

    truth = np.array([[1, 0, IGNORED], [IGNORED, IGNORED, IGNORED]], dtype=np.float32)
    scores = np.array([[0.5, 0.25, 0.999], [0.1, 0.2, 0.3]], dtype=np.float32)
    loss = np.asarray(masked_crossentropy(truth, scores))
    assert loss.tolist() == pytest.approx([-(np.log(0.5) + np.log(0.75)) / 2, 0], abs=1e-6)


def test_augmentation_is_switched_by_the_recipe_and_off_when_scoring() -> None:
    from training.config import AugmentConfig
    from training.fit import _with_augmentation
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4), ImageSpec(32, 32), 1)
    full = _with_augmentation(network, AugmentConfig(contrast=0.2, zoom=0.1))
    assert [type(layer).__name__ for layer in full.layers[1:-1]] == [
        "RandomFlip",
        "RandomRotation",
        "RandomZoom",
        "RandomContrast",
        "RandomBrightness",
    ]
    bare = _with_augmentation(network, AugmentConfig(flip=False, rotation=0, brightness=0))
    assert len(bare.layers) == 2
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)
    np.testing.assert_array_equal(full.predict_on_batch(images), network.predict_on_batch(images))


def test_a_run_stopped_after_an_epoch_goes_on_and_a_finished_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import fit as module

    write_dataset(tmp_path, 10, size=64)
    config = TrainConfig.from_toml(SMOKE).model_copy(update={"epochs": 2})
    run, said = tmp_path / "run", list[str]()
    real = module._replace

    def stop(target: Path, write: object, *arguments: object, **options: object) -> None:
        real(target, write, *arguments, **options)  # type: ignore[arg-type]
        if target.name == "checkpoint.keras":
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_replace", stop)
    with pytest.raises(KeyboardInterrupt):
        module.fit(config, tmp_path, run, report=said.append)
    assert not (run / "spec.json").exists()
    monkeypatch.setattr(module, "_replace", real)
    spec = module.fit(config, tmp_path, run, report=said.append)
    assert "continuing after epoch 1" in said
    assert pd.read_csv(run / "history.csv")["epoch"].tolist() == [1, 2]
    assert pd.read_csv(run / "history.csv")["learning_rate"].iloc[-1] == pytest.approx(1e-5)

    assert spec == ModelSpec.from_json((run / "spec.json").read_text())
    assert spec.labels == ("Opacity", "Device")
    metrics = json.loads((run / "metrics.json").read_text())
    validation = pd.read_csv(run / "validation.csv")
    assert metrics["images"] == len(validation)
    assert metrics["patients"] == validation["patient"].nunique()
    assert np.load(run / "samples.npy").shape == (len(validation), 64, 64, 1)

    assert module.fit(config, tmp_path, run, report=said.append) == spec
    assert "is finished" in said[-1]
    with pytest.raises(UsageError, match="another recipe"):
        module.fit(config.model_copy(update={"epochs": 3}), tmp_path, run, report=said.append)
