"""The whole line: drawn radiographs -> training -> export -> predict -> eval."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from chexscore import Classifier, ImageSpec, ModelSpec, predict, runs
from chexscore.cases import Protocol
from chexscore.errors import ModelError, UsageError
from chexscore.evaluation import evaluate
from chexscore.points import points_and_model
from tests.phantoms import write_chexpert, write_dataset
from training.config import NetworkConfig, TrainConfig

SMOKE = Path(__file__).parents[1] / "training" / "configs" / "smoke.toml"
ROOT = Path(__file__).parents[1]


RECIPE = """
name = "line"
epochs = 8
batch_size = 16
average = 0.25

[data]
layout = "chexpert"
table = "train.csv"
test_list = "valid.csv"
labels = ["Lung Opacity", "Support Devices"]
validation = 0.25
uncertain = {default = "ignore", "Support Devices" = [0.4, 0.6]}
only = {"Frontal/Lateral" = ["Frontal"]}

[image]
height = 64
width = 64

[network]
name = "compact"
width = 8
l2 = 1e-5
"""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of CheXpert's shape, and its recipe."""
    folder = tmp_path_factory.mktemp("films")
    write_chexpert(folder, 300)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def run(films: Path) -> Path:
    """Prepared, and trained on it; killed after the first epoch and called again."""
    from training import __main__ as training
    from training.fit import fit

    folder, recipe, cache = films / "run", films / "recipe.toml", films / "cache"
    training.prepare(recipe, films, cache)
    command = [sys.executable, "-m", "training", "fit", recipe, "--data", films, "--out", folder]
    command += ["--cache", cache]
    with subprocess.Popen(list(map(str, command)), cwd=ROOT) as process:
        while process.poll() is None and not (folder / "checkpoint.npz").exists():
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    said: list[str] = []
    fit(TrainConfig.from_toml(recipe), films, folder, cache=cache, report=said.append)
    assert any(line.startswith("continuing after epoch") for line in said)
    assert any("unreadable and left out" in line for line in said)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    from export.publish import publish

    model = run / "model.onnx"
    assert "differ by" in publish(run, model)
    return model


def test_the_planted_findings_are_found_on_patients_never_seen(
    films: Path, run: Path, exported: Path
) -> None:
    classifier = Classifier(exported, device="cpu")
    output = str(run / "out.csv")
    record = runs.run([str(films / "train"), str(films / "valid")], output, classifier)
    assert record.scored > 500
    assert record.not_scored == record.failed["unreadable"] > 2
    points, _ = points_and_model(output)
    for side in ("validation", "test"):
        measured = json.loads((run / "metrics.json").read_text())[side]
        result = evaluate(output, str(run / f"{side}.csv"), points, Protocol(resamples=0))
        assert "lines of labels without a prediction" not in result.cases.left_over
        table, point = result.everyone, next(iter(result.points))
        for label in ("Lung Opacity", "Support Devices"):
            assert table.get("auc", label).value > 0.9
            assert measured[f"auc/{label}"]["value"] > 0.9
            if side == "test":  # no policy applies: every cell is known
                assert table.get("auc", label).value == pytest.approx(
                    measured[f"auc/{label}"]["value"], abs=1e-6
                )
                assert table.get(f"accuracy@{point}", label).value == pytest.approx(
                    measured[f"accuracy/{label}"]["value"], abs=0.02
                )


def test_the_file_says_how_it_came_to_be(exported: Path) -> None:
    spec = Classifier(exported, device="cpu").spec
    assert float(spec.provenance["difference_to_keras"]) <= 1e-5
    assert spec.provenance["network"] == "compact"
    assert {"commit", "keras", "tf2onnx", "opset"} <= set(spec.provenance)


def damage(run: Path, copy: Path) -> Path:
    """A copy of the run whose network.keras stays as it is."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("cache", "*.onnx"))
    return copy


def change_weights(model: onnx.ModelProto) -> None:
    weights = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.01, weights.name))


def swap_labels(model: onnx.ModelProto) -> None:
    order = numpy_helper.from_array(np.array([1, 0]), "order")
    _replace_scores(model, order, helper.make_node("Gather", ["right", "order"], ["scores"], axis=1))


def mix_up_batch(model: onnx.ModelProto) -> None:
    """Right for one image at a time."""
    axes = numpy_helper.from_array(np.array([0]), "axes")
    mean = helper.make_node("ReduceMean", ["right", "axes"], ["mean"], keepdims=1)
    zero = helper.make_node("Sub", ["right", "right"], ["zero"])
    _replace_scores(model, axes, mean, zero, helper.make_node("Add", ["mean", "zero"], ["scores"]))


def _replace_scores(model: onnx.ModelProto, constant: onnx.TensorProto, *nodes: onnx.NodeProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["right" if name == "scores" else name for name in node.output]
    model.graph.initializer.append(constant)
    model.graph.node.extend(nodes)


@pytest.mark.parametrize("damage_graph", [change_weights, swap_labels, mix_up_batch])
def test_a_graph_that_scores_otherwise_is_not_published(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage_graph: Callable[[onnx.ModelProto], None],
) -> None:
    from export import publish as module
    from export.convert import convert

    def broken(network: object, spec: ModelSpec) -> onnx.ModelProto:
        model = convert(network, spec)
        damage_graph(model)
        return model

    target = tmp_path / "model.onnx"
    target.write_text("published earlier")
    monkeypatch.setattr(module, "convert", broken)
    with pytest.raises(ModelError, match=r"was not published: .* differ by"):
        module.publish(run, target)
    assert target.read_text() == "published earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_without_its_samples_a_run_is_compared_on_drawn_images(run: Path, tmp_path: Path) -> None:
    from export.publish import publish

    copy = damage(run, tmp_path / "run")
    (copy / "samples.npy").unlink()
    assert "16 drawn images" in publish(copy, tmp_path / "model.onnx")


def test_what_cannot_be_exported_is_refused_with_the_reason(run: Path, tmp_path: Path) -> None:
    from export.publish import publish

    with pytest.raises(UsageError, match="not the folder of a finished run"):
        publish(tmp_path, tmp_path / "model.onnx")
    for output, said in (
        (tmp_path / "none" / "model.onnx", "there is no folder"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(UsageError, match=said):
            publish(run, output)
    other = damage(run, tmp_path / "labels")
    spec = ModelSpec.from_json((other / "spec.json").read_text())
    wrong = ModelSpec("x", "1", ("A", "B", "C"), spec.image, (0.5,) * 3)
    (other / "spec.json").write_text(wrong.to_json())
    with pytest.raises(ModelError, match="its description promises"):
        publish(other, tmp_path / "model.onnx")
    torn = damage(run, tmp_path / "torn")
    (torn / "network.keras").write_bytes((torn / "network.keras").read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load the network"):
        publish(torn, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_the_reference_network_exports_within_the_tolerance(tmp_path: Path) -> None:
    """A narrow one: the same layers, a sixteenth of the filters."""
    from export.convert import convert
    from export.verify import TOLERANCE, compare, radiographs
    from training.networks import build

    image = ImageSpec(512, 512)
    network = build(NetworkConfig(name="reference", width=2), image, 2)
    model = convert(network, ModelSpec("narrow", "1", ("A", "B"), image, (0.5, 0.5)))
    onnx.save(model, tmp_path / "narrow.onnx")
    images, _ = radiographs(tmp_path, image)
    assert compare(network, tmp_path / "narrow.onnx", images[:3]) <= TOLERANCE


TWO_DEVICES = """
import sys
from pathlib import Path
from training.config import TrainConfig
from training.fit import fit

recipe, films, out = map(Path, sys.argv[1:])
for devices in ("one", "all"):
    config = TrainConfig.from_toml(recipe).model_copy(update={"devices": devices})
    fit(config, films, out / devices, cache=out / "cache", report=lambda line: print(line))
"""


def test_another_backend_trains_on_two_devices_as_on_one_and_the_export_agrees(tmp_path: Path) -> None:
    """JAX trains, TensorFlow exports: training uses nothing but the Keras 3 API."""
    from export.publish import publish

    films = tmp_path / "films"
    write_dataset(films, 12, size=64)
    jax = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = list(map(str, (sys.executable, "-c", TWO_DEVICES, SMOKE, films, tmp_path)))
    done = subprocess.run(command, env=os.environ | jax, check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.count("batches shared by 2 devices on 1 hosts") == 1
    with (
        np.load(tmp_path / "one" / "checkpoint.npz") as one,
        np.load(tmp_path / "all" / "checkpoint.npz") as two,
    ):
        for name in set(one) - {"history"}:
            np.testing.assert_allclose(one[name], two[name], atol=1e-4)

    publish(tmp_path / "all", tmp_path / "model.onnx")
    spec = Classifier(tmp_path / "model.onnx", device="cpu").spec
    assert "on jax" in spec.provenance["keras"]
    assert float(spec.provenance["difference_to_keras"]) <= 1e-5
    assert all(result.scores for result in predict(films / "p0000", tmp_path / "model.onnx"))
