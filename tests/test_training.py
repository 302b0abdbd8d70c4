"""Training from the recipe to the run folder, and its commands."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chexscore.errors import ChexscoreError, UsageError, exit_on_error
from chexscore.lock import locked
from chexscore.spec import ImageSpec, ModelSpec
from chexscore.stopping import Stop
from tests.phantoms import write_dataset
from tests.trained import SMOKE, recipe
from training import cli as command
from training.config import NetworkConfig

pytestmark = pytest.mark.usefixtures("draws")


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves seconds a network: to compile one takes longer than the few steps here. test_line.py compiles."""
    import keras

    monkeypatch.setattr(keras.Model, "run_eagerly", property(lambda _: True, lambda *_: None))


def test_the_rate_warms_up_and_falls_or_falls_where_the_auc_stands_still() -> None:
    from training import optimizers

    config = recipe(epochs=10, warmup_epochs=1, learning_rate=1e-3, final_learning_rate=1e-5)
    optimizer, values = optimizers.build(config, steps=100), []
    for step in (0, 50, 100, 550, 1000):
        optimizer.iterations.assign(step)
        values.append(float(optimizer.learning_rate))
    assert values == pytest.approx([0, 5e-4, 1e-3, 5.05e-4, 1e-5], rel=1e-3, abs=1e-9)

    short = optimizers.build(recipe(epochs=1, warmup_epochs=0.9), steps=1)  # its only step is none of warm-up
    assert float(short.learning_rate) == pytest.approx(1e-3)

    history = [{"auc_macro": value} for value in (0.5, 0.6, 0.6, 0.55, 0.6, 0.7, 0.1, 0.2, 0.3)]
    plateau = recipe(schedule="plateau", learning_rate=1e-3, final_learning_rate=5e-5)
    rates = [optimizers.plateau_rate(history[:epochs], plateau) for epochs in (0, 4, 5, 8, 9)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 5e-5])
    assert optimizers.best_epoch(history) == 6
    assert optimizers.best_epoch([{"auc_macro": float("nan")}] * 2) == 2
    assert optimizers.out_of_patience(history, 3)
    assert not optimizers.out_of_patience(history, 4)
    assert not optimizers.out_of_patience(history, 0)
    assert not optimizers.out_of_patience([], 1)


def test_adamw_decays_kernels_alone() -> None:
    from keras import ops

    from training import optimizers
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4), ImageSpec(32, 32), 1)
    optimizer = optimizers.build(recipe(optimizer="adamw", weight_decay=0.1), 1)
    optimizer.build(network.trainable_variables)
    before = [ops.convert_to_numpy(variable).copy() for variable in network.trainable_variables]
    optimizer.apply([np.zeros_like(value) for value in before])
    after = [ops.convert_to_numpy(variable) for variable in network.trainable_variables]
    decayed = [not np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    assert decayed == [variable.name == "kernel" for variable in network.trainable_variables]


class Cut(BaseException):
    """A stop that nothing on its way catches."""


@pytest.mark.usefixtures("eagerly")
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import checkpoints
    from training import fit as module

    write_dataset(tmp_path, 36, size=64)
    config = recipe(epochs=2, batch_size=16, average=0.5, optimizer="adamw", weight_decay=0.01, clip_norm=1.0)
    whole, run, said = tmp_path / "whole", tmp_path / "run", list[str]()
    module.fit(config, tmp_path, whole, report=said.append)
    assert "continuing" not in " ".join(said)

    real = checkpoints.replace

    def stop(target: Path, *arguments: object, **options: object) -> None:
        real(target, *arguments, **options)  # type: ignore[arg-type]
        if target.name == "checkpoint.npz":
            target.with_name("partial-checkpoint.npz").write_bytes(b"PK")  # as of a kill, an epoch later
            raise Cut

    monkeypatch.setattr(checkpoints, "replace", stop)
    with pytest.raises(Cut):
        module.fit(config, tmp_path, run, cache=whole / "cache", report=said.append)
    assert not (run / "spec.json").exists()
    monkeypatch.setattr(checkpoints, "replace", real)
    monkeypatch.setattr("training.outcome.commit", lambda: "another")
    with (
        locked(str(run / "checkpoint.npz"), 0, Stop()),
        pytest.raises(UsageError, match="run: another process fills it; wait for its end"),
    ):
        module.fit(config, tmp_path, run, cache=whole / "cache", report=said.append)
    earlier = json.loads((run / "config.json").read_text())  # of a version that had no such field yet
    del earlier["augment"]["jpeg_quality"]
    (run / "config.json").write_text(json.dumps(earlier))
    module.fit(config, tmp_path, run, cache=whole / "cache", report=said.append)
    assert "continuing after epoch 1" in said
    assert not list(run.glob("partial-*"))

    first, second = (pd.read_csv(folder / "history.csv") for folder in (whole, run))
    assert second["epoch"].tolist() == [1, 2]
    assert second["commit"].tolist() == [first["commit"].iloc[0], "another"]
    provenance = ModelSpec.from_json((run / "spec.json").read_text()).provenance
    assert provenance["commit"] == ", ".join(second["commit"])
    assert second["learning_rate"].iloc[-1] == pytest.approx(1e-5)
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=1e-4)
    with np.load(whole / "checkpoint.npz") as ours, np.load(run / "checkpoint.npz") as theirs:
        for name in set(ours) - {"history"}:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4)

    _assert_finished(run)
    with np.load(whole / "checkpoint.npz") as arrays:
        kept = {name: arrays[name] for name in list(arrays)[:-1] if name != "history"}
        np.savez(whole / "checkpoint.npz", history=arrays["history"], **kept)
    (whole / "spec.json").unlink()
    with pytest.raises(UsageError, match=r"checkpoint\.npz: cannot be continued from: its best network"):
        module.fit(config, tmp_path, whole, report=said.append)
    module.fit(config, tmp_path, run, report=said.append)
    assert "is finished" in said[-1]
    with pytest.raises(UsageError, match="another recipe"):
        module.fit(recipe(epochs=4), tmp_path, run, report=said.append)
    (run / "config.json").write_text('{"name": "cut')
    with pytest.raises(
        UsageError, match=r"config\.json: no recipe that this version knows: Invalid JSON[^\n]*\.$"
    ):
        module.fit(config, tmp_path, run, report=said.append)


def _assert_finished(run: Path) -> None:
    """It holds what fit says, in the shapes that export and a reader need."""
    measured = json.loads((run / "metrics.json").read_text())
    validation = pd.read_csv(run / "validation.csv")
    with np.load(run / "validation.npz") as arrays:
        assert arrays["paths"].tolist() == validation["path"].tolist()
        assert arrays["patients"].tolist() == validation["patient"].tolist()
        np.testing.assert_array_equal(arrays["targets"], validation[["Opacity", "Device"]])
        assert arrays["scores"].shape == (len(validation), 2)
        assert np.load(run / "samples.npy").shape == (len(arrays["samples"]), 32, 32, 1)
    assert set(measured) == {"training", "validation"}
    assert measured["validation"]["images"] == len(validation)
    assert measured["validation"]["patients"] == validation["patient"].nunique()
    assert measured["validation"]["labels_with_both_classes"] == 2
    for key in ("auc/macro", "accuracy/micro", "accuracy_at_0.5/micro", "prevalence/Device"):
        assert set(measured["training"][key]) == {"value", "low", "high"}
        assert 0 <= measured["validation"][key]["value"] <= 1
    interval = measured["training"]["auc/macro"]
    assert interval["low"] <= interval["value"] <= interval["high"]
    assert {"average_precision/Device", "accuracy/Opacity", "auc/micro"} <= set(measured["training"])
    spec = ModelSpec.from_json((run / "spec.json").read_text())
    assert spec.labels == ("Opacity", "Device")
    assert spec.metrics["auc/macro"] == measured["validation"]["auc/macro"]["value"]
    assert sorted(path.name for path in run.glob("*.png")) == [
        "epochs.png",
        "findings.png",
        "roc.png",
        "samples.png",
    ]


@pytest.mark.usefixtures("eagerly")
def test_the_network_that_is_kept_is_the_average_of_the_weights(tmp_path: Path) -> None:
    import keras

    from training import fit as module

    write_dataset(tmp_path, 10, size=64)
    module.fit(recipe(average=0.9, batch_size=4), tmp_path, tmp_path / "run", report=lambda _: None)
    network = keras.saving.load_model(tmp_path / "run" / "network.keras", compile=False)
    kernel = np.asarray(network.layers[-1].kernel)
    with np.load(tmp_path / "run" / "checkpoint.npz") as arrays:
        alike = [arrays[name] for name in arrays if arrays[name].shape == kernel.shape]
    # The weights, their running average, two moments of Adam, and the best network.
    assert [bool(np.allclose(array, kernel)) for array in alike] == [False, True, False, False, True]


@pytest.mark.usefixtures("eagerly")
def test_a_loss_that_is_no_number_stops_the_run_with_advice(tmp_path: Path) -> None:
    from training import fit as module

    write_dataset(tmp_path, 10, size=64)
    network = recipe().network.model_copy(update={"l2": 1e38})
    with pytest.raises(ChexscoreError, match=r"the loss is (inf|nan); lower learning_rate"):
        module.fit(recipe(network=network), tmp_path, tmp_path / "run", report=lambda _: None)
    assert not (tmp_path / "run" / "spec.json").exists()


def test_weights_that_the_last_step_made_no_numbers_of_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is that of before the step."""
    from training import fit as module
    from training import outcome

    write_dataset(tmp_path, 10, size=64)
    score = outcome.score
    monkeypatch.setattr(outcome, "score", lambda *given: score(*given) * np.nan)
    with pytest.raises(ChexscoreError, match=r"epoch 1/\d: the network gives scores that are no numbers"):
        module.fit(recipe(), tmp_path, tmp_path / "run", report=lambda _: None)
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


def test_the_command_takes_another_seed_than_the_recipe_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import fit as module

    seeds: list[int] = []
    monkeypatch.setattr(module, "fit", lambda config, *_, **__: seeds.append(config.seed))
    command.fit(SMOKE, tmp_path, tmp_path / "run")
    command.fit(SMOKE, tmp_path, tmp_path / "run", seed=7)
    assert seeds == [0, 7]


def test_the_split_command_writes_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path, 8, size=16)
    command.split(SMOKE, tmp_path, tmp_path / "run")
    sides = [pd.read_csv(tmp_path / "run" / f"{side}.csv") for side in ("training", "validation")]
    assert not set(sides[0]["patient"]) & set(sides[1]["patient"])
    assert len(pd.concat(sides)) == len(pd.read_csv(tmp_path / "labels.csv"))
    assert "images for validation" in capsys.readouterr().err


def test_what_is_asked_for_and_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import devices
    from training import fit as module

    write_dataset(tmp_path, 10, size=64)
    with pytest.raises(UsageError, match='devices = "all" needs Keras on JAX'):
        module.fit(recipe(devices="all"), tmp_path, tmp_path / "run", report=lambda _: None)
    monkeypatch.setattr(devices, "_gpus", list)
    with pytest.raises(UsageError, match="no GPU: Keras on tensorflow sees none"):
        module.fit(recipe(), tmp_path, tmp_path / "run", gpu=True, report=lambda _: None)
    lite = NetworkConfig(name="efficientnet-lite0", imagenet="no_such_package")
    with pytest.raises(UsageError, match="no_such_package: no installed package with weights"):
        module.fit(recipe(network=lite), tmp_path, tmp_path / "run", report=lambda _: None)
    large = recipe().network.model_copy(update={"blocks": 7})
    with pytest.raises(UsageError, match="needs images of at least 508 x 508"):
        module.fit(recipe(network=large), tmp_path, tmp_path / "run", report=lambda _: None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UsageError, match="tensorboard = true needs the extra"):
        module.fit(recipe(tensorboard=True), tmp_path, tmp_path / "run", report=lambda _: None)
    assert not (tmp_path / "run").exists()  # the folder is still free for a recipe that can be run
    (tmp_path / "run").mkdir()
    whole = io.BytesIO()
    np.savez(whole, np.zeros(1000), history=np.array("[]"))
    flipped = bytearray(whole.getvalue())
    flipped[200] ^= 1
    for content in (b"PK", whole.getvalue()[:-1], bytes(flipped)):
        (tmp_path / "run" / "checkpoint.npz").write_bytes(content)
        with pytest.raises(UsageError, match=r"checkpoint\.npz: cannot be continued from"):
            module.fit(recipe(), tmp_path, tmp_path / "run", report=lambda _: None)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    from training.checkpoints import replace

    def fill(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_text("before")
    with pytest.raises(OSError, match="No space left") as caught:
        replace(tmp_path / "file", fill)
    assert caught.value.filename == str(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_the_command_tells_errors_in_a_sentence_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, 4, size=16)
    arguments = ["prepare", str(SMOKE), "--data", str(tmp_path), "--out"]
    for out, code, said in (
        (tmp_path / "labels.csv", 2, "labels.csv is a file; give a folder."),
        (tmp_path / "cache", 0, "images in "),
    ):
        with pytest.raises(SystemExit) as left, exit_on_error("training", "stopped."):
            command.app([*arguments, str(out)])
        assert (left.value.code, said in capsys.readouterr().err) == (code, True)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.splits.divide", interrupted)
    with pytest.raises(SystemExit) as left, exit_on_error("training", "stopped; the same command goes on."):
        command.app(["split", *arguments[1:], str(tmp_path / "tables")])
    stopped = "training: stopped; the same command goes on.\n"
    assert (left.value.code, capsys.readouterr().err) == (130, stopped)
    whole = [sys.executable, "-m", "training", *arguments, str(tmp_path / "cache")]
    whole[whole.index(str(tmp_path))] = str(tmp_path / "none")
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    said = "labels.csv: the table of labels cannot be read: there is no such file; check --data"
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_an_interrupt_while_a_library_is_loaded_is_one_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Extension modules make an ImportError of it, and who imports Keras a UsageError of that."""
    failed = ImportError("initialization failed")
    failed.__cause__ = KeyboardInterrupt()
    told = UsageError("Keras cannot be used")
    told.__cause__ = failed
    ended = ImportError("initialization failed")
    ended.__context__ = SystemExit(143)
    for error, code in ((failed, 130), (told, 130), (ended, 143)):
        with pytest.raises(SystemExit) as left, exit_on_error("export", "stopped."):
            raise error
        assert (left.value.code, capsys.readouterr().err) == (code, "export: stopped.\n")
    with pytest.raises(ImportError), exit_on_error("export", "stopped."):
        raise ImportError("no such library") from OSError()


@pytest.mark.parametrize(
    ("backend", "missing"), [("foo", ""), ("torch", "torch"), ("jax", "jax"), ("tensorflow", "keras")]
)
def test_a_backend_that_is_not_there_is_one_sentence(tmp_path: Path, backend: str, missing: str) -> None:
    (tmp_path / f"{missing or 'other'}.py").write_text(f"raise ImportError('No module named {missing}')")
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "training", "fit", str(SMOKE), "--data", "data", "--out", "run"],
        env=os.environ
        | {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(root)))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"error: Keras cannot be used with the backend {backend} (" in done.stderr
    assert "pip install 'chexscore[training]'" in done.stderr
    assert "Traceback" not in done.stderr
