"""The mean of the weights of runs that differ in the seed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chexscore.errors import TableError, UsageError
from chexscore.spec import ModelSpec
from tests.phantoms import write_dataset

pytest.importorskip("keras")

import keras

from training.average import average
from training.config import AugmentConfig, DataConfig, ImageConfig, NetworkConfig, TrainConfig
from training.examples import Examples, load
from training.fit import fit

STILL = AugmentConfig(flip=False, rotation=0, brightness=0)
CONFIG = TrainConfig(
    name="made",
    epochs=1,
    batch_size=12,
    data=DataConfig(labels=("Opacity", "Device"), validation=0.25),
    image=ImageConfig(height=32, width=32),
    augment=STILL,
).model_copy(
    update={"network": NetworkConfig(blocks=2, width=4).model_copy(update={"imagenet": "weights.h5"})}
)


@pytest.fixture(scope="module", autouse=True)
def eagerly() -> Iterator[None]:
    """Compiling takes longer than the few steps here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "run_eagerly", property(lambda _: True, lambda *_: None))
        yield


@pytest.fixture(scope="module", autouse=True)
def a_small_network_with_weights() -> Iterator[None]:
    """As if weights of the reference were published: it is smaller than the networks that have some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.config.PUBLISHED", ("reference",))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and beside it two runs, 0 and 1, of one recipe."""
    folder = tmp_path_factory.mktemp("average")
    write_dataset(folder, 24, size=64)
    for seed in (0, 1):
        config = CONFIG.model_copy(update={"seed": seed})
        fit(config, folder, folder / str(seed), cache=folder / "cache", report=lambda _: None)
    return folder


def contents(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in (path, *path.rglob("*")) if each.is_file()}


def test_weights_are_averaged_and_the_network_measured(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    spec_file = data / "1" / "spec.json"
    trained = json.loads(spec_file.read_text())
    trained["provenance"]["commit"] += ", 0123abc"  # gone on with there
    spec_file.write_text(json.dumps(trained))
    runs = [data / "0", data / "1"]
    (tmp_path / "mean").mkdir()  # an empty folder is in nobody's way
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.outcome.measure", lambda *_: 1 / 0)  # stopped while it measures
        with pytest.raises(ZeroDivisionError):
            average(runs, data, tmp_path / "mean", report=said.append)
    assert [each.name for each in tmp_path.iterdir()] == ["partial-mean"]
    (tmp_path / "partial-mean" / "training.csv").write_text("path,pat")  # as a kill may leave it
    (tmp_path / "partial-mean" / "partial-spec.json").touch()
    for _ in range(2):
        average(runs, data, tmp_path / "mean", report=said.append)
    assert "is finished" in said[-1]
    assert sum(line.startswith("prepared before") for line in said) == 1, said
    assert {each.name for each in (data / "0").iterdir()} - {
        each.name for each in (tmp_path / "mean").iterdir()
    } == {"checkpoint.npz", "checkpoint.npz.lock", "history.csv", "epochs.png"}
    assert [each.name for each in tmp_path.iterdir()] == ["mean"]
    assert not list((tmp_path / "mean").glob("*.lock"))

    first, second, mean = (
        keras.saving.load_model(run / "network.keras", compile=False) for run in (*runs, tmp_path / "mean")
    )
    for ours, mine, other in zip(mean.get_weights(), first.get_weights(), second.get_weights(), strict=True):
        assert not np.array_equal(mine, other)
        np.testing.assert_allclose(ours, (mine + other) / 2, atol=1e-6)

    spec = ModelSpec.from_json((tmp_path / "mean" / "spec.json").read_text())
    assert spec.provenance["seeds"] == "0, 1"
    assert spec.provenance["begun_with"] == "weights.h5"
    assert spec.provenance["commit"].split(", ") == sorted({"0123abc", spec.provenance["averaged_at"]})
    measured = json.loads((tmp_path / "mean" / "metrics.json").read_text())
    assert spec.metrics["auc/macro"] == measured["validation"]["auc/macro"]["value"]
    assert (tmp_path / "mean" / "validation.csv").read_text() == (data / "0" / "validation.csv").read_text()


def test_a_folder_that_no_stopped_average_has_left_is_not_emptied(data: Path, tmp_path: Path) -> None:
    runs, partial = [data / "0", data / "1"], tmp_path / "partial-mean"
    partial.mkdir()
    (partial / "thesis.txt").write_text("mine")

    def refused() -> None:
        before = contents(tmp_path)
        with pytest.raises(UsageError, match="partial-mean is where this is put together"):
            average(runs, data, tmp_path / "mean", report=lambda _: None)
        assert contents(tmp_path) == before

    refused()
    CONFIG.model_copy(update={"epochs": 9}).keep(partial)
    refused()
    CONFIG.keep(partial)
    (partial / "chapters").mkdir()
    refused()
    shutil.rmtree(partial)
    partial.write_text("mine")
    refused()
    partial.unlink()
    shutil.copytree(data / "0", partial)
    refused()


def test_an_average_stopped_at_its_first_file_or_named_in_another_order_goes_on(
    data: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "partial-mean"
    (partial / "cache").mkdir(parents=True)
    (partial / "config.json.partial").write_text("{")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.outcome.measure", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            average([data / "0", data / "1"], data, tmp_path / "mean", report=lambda _: None)
    average([data / "1", data / "0"], data, tmp_path / "mean", report=lambda _: None)
    assert not partial.exists()


def test_damaged_runs_and_averages_are_named(data: Path, tmp_path: Path) -> None:
    for name in ("damaged", "torn", "averaged", "exchanged"):
        shutil.copytree(data / "1", tmp_path / name)
    content = (data / "1" / "network.keras").read_bytes()
    (tmp_path / "damaged" / "network.keras").write_bytes(content[:3000])
    text = (data / "1" / "spec.json").read_text()
    (tmp_path / "torn" / "spec.json").write_text(text[:100])
    image = keras.Input((32, 32, 1))
    keras.Model(image, keras.layers.Conv2D(1, 3)(image)).save(tmp_path / "exchanged" / "network.keras")
    spec = json.loads(text)
    spec["provenance"]["seeds"] = "1, 2"
    (tmp_path / "averaged" / "spec.json").write_text(json.dumps(spec))
    for name, said in (
        ("damaged", "damaged/network.keras: cannot be read"),
        ("torn", "torn/spec.json: "),
        ("averaged", "averaged is an average itself, of the seeds 1, 2"),
        ("exchanged", "exchanged/network.keras: another network than that of config.json"),
    ):
        with pytest.raises(UsageError, match=said):
            average([data / "0", tmp_path / name], data, tmp_path / "mean", report=lambda _: None)
    same_seed = tmp_path / "averaged" / "config.json"
    same_seed.write_text(CONFIG.model_copy(update={"seed": 0}).model_dump_json())
    with pytest.raises(UsageError, match="averaged is an average itself"):
        average([data / "0", tmp_path / "averaged"], data, tmp_path / "mean", report=lambda _: None)


def test_two_averages_do_not_fill_one_folder(data: Path, tmp_path: Path) -> None:
    partial, before = tmp_path / "partial-mean", dict[Path, bytes]()

    def again(*_: object) -> None:
        assert not before, "the second one measures, too"
        (partial / "network.keras").write_text("of the first")
        before.update(contents(partial))
        average(
            [data / "0", data / "1"], data, tmp_path / "mean", cache=data / "cache", report=lambda _: None
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.outcome.measure", again)
        with pytest.raises(UsageError, match="partial-mean: another process fills it; wait for its end"):
            average([data / "0", data / "1"], data, tmp_path / "mean", report=lambda _: None)
    assert contents(partial) == before


def test_an_average_that_another_process_has_made_meanwhile_stays(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "mean"

    def late(*given: Any) -> Examples:
        out.mkdir()
        (out / "spec.json").write_text("the other's")
        return load(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.average.load", late)
        with pytest.raises(UsageError, match="mean holds something else; give another --out"):
            average([data / "0", data / "1"], data, out, cache=data / "cache", report=lambda _: None)
    assert contents(out) == {out / "spec.json": b"the other's"}
    assert [file.name for file in (tmp_path / "partial-mean").iterdir()] == ["config.json.lock"]


def test_runs_that_make_no_average_are_refused(data: Path, tmp_path: Path) -> None:
    def refused(said: str, *runs: Path) -> None:
        with pytest.raises(UsageError, match=said):
            average(runs, data, tmp_path / "mean", report=lambda _: None)
        assert not (tmp_path / "mean").exists()

    begun = tmp_path / "begun"  # a run of fit that is not finished, nor at its first checkpoint
    begun.mkdir()
    (begun / "config.json").write_text(CONFIG.model_copy(update={"seed": 0}).model_dump_json(indent=1))
    averaged, changed = tmp_path / "averaged", tmp_path / "changed"
    average([data / "0", data / "1"], data, changed, report=lambda _: None)
    shutil.copytree(changed, averaged)
    trained = json.loads((averaged / "spec.json").read_text())
    trained["provenance"]["seeds"] = "0, 2"
    (averaged / "spec.json").write_text(json.dumps(trained))
    retrained = tmp_path / "retrained"  # of runs that were trained anew since
    shutil.copytree(changed, retrained)
    shutil.copy(data / "0" / "network.keras", retrained)
    (changed / "config.json").write_text(CONFIG.model_copy(update={"epochs": 9}).model_dump_json())
    for taken in (data / "0", begun, averaged, retrained, changed, data / "labels.csv"):
        before = contents(taken)
        with pytest.raises(UsageError, match="holds something else"):
            average([data / "0", data / "1"], data, taken, report=lambda _: None)
        assert contents(taken) == before
    refused("no finished run", data / "0", tmp_path)
    refused("seeds of the runs are 0; give two", data / "0")
    refused("seeds of the runs are 0, 0; give two", data / "0", data / "0")
    run = tmp_path / "other"
    run.mkdir()
    (run / "spec.json").touch()
    other = {"seed": 2, "epochs": 9}
    (run / "config.json").write_text(CONFIG.model_copy(update=other).model_dump_json())
    refused("other was trained by another recipe than", data / "0", run)
    (run / "config.json").write_text("{}")
    refused(r"config\.json: no recipe that this version knows", data / "0", run)
    bare = CONFIG.network.model_copy(update={"imagenet": ""})
    for seed, each in enumerate((tmp_path / "first", tmp_path / "second")):
        each.mkdir()
        (each / "spec.json").touch()
        update = {"network": bare, "seed": seed}
        (each / "config.json").write_text(CONFIG.model_copy(update=update).model_dump_json())
    refused("began with random weights", tmp_path / "first", tmp_path / "second")


def test_a_data_set_that_is_split_otherwise_now_is_refused(data: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, 20, size=64)
    with pytest.raises(TableError, match="another split now than this run has begun with"):
        average([data / "0", data / "1"], tmp_path, tmp_path / "mean", report=lambda _: None)
    assert not list(tmp_path.glob("*mean")), "no image is decoded for it"
