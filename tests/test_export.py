"""A trained network -> a file that scores the same, says what it is, and is not published otherwise."""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper, numpy_helper

from chexscore import Classifier, ImageSpec, ModelSpec, display
from chexscore.errors import ModelError, OutputError, UsageError
from export.calibrate import POINTS
from tests.trained import INTERCEPT, LABELS, SLOPE, shake, write_run
from training.config import NetworkConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.publish import publish_run

    model = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert "100 validation images in batches of 8, 64 of them also of 1 and 3 differ by" in publish_run(
        run, model
    )
    return model


@pytest.fixture
def converted(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves a second each: what publishing does after the conversion is what these tests are about."""
    from export import publish

    monkeypatch.setattr(publish, "convert", lambda *_: onnx.load(exported))


def copy_of(run: Path, copy: Path, *, without: str = "nothing") -> Path:
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(without))
    return copy


def test_scores_are_those_of_keras_calibrated(run: Path, exported: Path) -> None:
    import keras

    images = np.load(run / "samples.npy")[:8]
    network = keras.saving.load_model(run / "network.keras", compile=False)
    raw = np.asarray(network.predict(images, verbose=0), np.float64)
    classifier = Classifier(exported, device="cpu")
    measured = classifier.spec.metrics
    expected = raw.copy()
    for column, label in enumerate(LABELS[:2]):
        slope = measured[f"calibration_slope/{label}"]
        intercept = measured[f"calibration_intercept/{label}"]
        assert slope == pytest.approx(SLOPE, rel=0.3)
        assert intercept == pytest.approx(INTERCEPT, abs=0.4)
        logits = np.log(raw[:, column] / (1 - raw[:, column]))
        expected[:, column] = 1 / (1 + np.exp(-(slope * logits + intercept)))
    assert np.abs(classifier.score(images) - expected).max() < 1e-5
    assert np.abs(raw - expected).max() > 0.05


def test_the_file_says_what_was_measured(run: Path, exported: Path) -> None:
    spec = Classifier(exported, device="cpu").spec
    assert "Platt" in spec.calibration
    left_out = "left as they are: Rare (only 5 patients with it)"
    assert f"300 images of 150 validation patients; {left_out}" in spec.calibration
    assert float(spec.provenance["difference_to_keras"]) <= 1e-5
    assert float(spec.provenance["auc_onnx"]) == pytest.approx(float(spec.provenance["auc_keras"]), abs=1e-4)
    assert spec.provenance["compared_with"] == "Keras in float32"
    assert float(spec.provenance["difference_of_logits"]) <= 1e-4
    with np.load(run / "validation.npz") as arrays:  # of calibrated scores, half of them are not right of 0.5
        truth, raw = arrays["targets"][:, 0], arrays["scores"][:, 0].astype(np.float64)
    slope, intercept = (spec.metrics[f"calibration_{name}/Opacity"] for name in ("slope", "intercept"))
    called = slope * np.log(raw / (1 - raw)) + intercept >= 0
    assert spec.metrics["accuracy_at_0.5/Opacity"] == pytest.approx((called == truth).mean(), abs=1e-6)
    assert (spec.metrics["images"], spec.metrics["patients"]) == (300, 150)
    assert spec.metrics["ece/Opacity"] < spec.metrics["ece_before/Opacity"] / 2
    assert spec.metrics["ece/Rare"] == spec.metrics["ece_before/Rare"]
    found = json.loads((run / "metrics.json").read_text())["validation"]
    assert found["auc/macro"] == {"value": 0.5}
    assert found["ece/macro"]["value"] == spec.metrics["ece/macro"] < found["ece_before/macro"]["value"]
    for label in LABELS:
        names = [point.name for point in spec.operating_points[label]]
        assert names == list(POINTS)
        assert spec.default_thresholds[label] == spec.operating_points[label][0].threshold


def test_a_network_taken_apart_wrongly_is_not_published(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    from export import convert
    from export.publish import publish_run

    without_sigmoid = convert.without_sigmoid

    def broken(network: keras.Model) -> keras.Model:
        apart = without_sigmoid(network)
        apart.layers[-1].kernel.assign(apart.layers[-1].kernel * 1.2)
        return apart

    monkeypatch.setattr(convert, "without_sigmoid", broken)
    with pytest.raises(ModelError, match=r"was not published: .* differ by"):
        publish_run(run, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_info_shows_it_in_80_columns(
    exported: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    classifier = Classifier(exported, device="cpu")
    display.info(classifier, ["cpu"], "cuDNN is missing")
    shown = capsys.readouterr().out
    for word in (
        "cpu; CUDA does not work (cuDNN is missing)",
        "fp32",
        "Platt scaling",
        "calibration error",
        "sensitivity 90 %",
        "sensitivity 95 %",
        "auc keras",
        "youden",
        "macro",
    ):
        assert word in shown, word
    point = classifier.spec.operating_points["Device"][1]
    assert f"{point.threshold:.4f} │      {point.sensitivity:.4f} │      {point.specificity:.4f} │" in shown


def damage_weights(model: onnx.ModelProto, by: float = 1.01) -> None:
    floats = (tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    weights = max(floats, key=lambda tensor: int(np.prod(tensor.dims)))
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(by), weights.name))


def swap_labels(model: onnx.ModelProto) -> None:
    order = numpy_helper.from_array(np.array([1, 0, 2]), "order")
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


@pytest.mark.parametrize("damage", [damage_weights, swap_labels, mix_up_batch])
def test_a_graph_that_scores_otherwise_is_not_published(
    run: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[onnx.ModelProto], None],
) -> None:
    from export import publish as module

    def broken(*_: object) -> onnx.ModelProto:
        model = onnx.load(exported)
        damage(model)
        return model

    target = tmp_path / "model.onnx"
    target.write_text("published earlier")
    monkeypatch.setattr(module, "convert", broken)
    with pytest.raises(ModelError, match=r"was not published: .* differ by") as caught:
        module.publish_run(run, target)
    assert caught.value.exit_code == 1
    assert target.read_text() == "published earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_scores_that_are_not_there_or_cannot_be_checked_are_not_calibrated_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import publish as module

    old, blind = (copy_of(run, tmp_path / name, without=name) for name in ("validation.npz", "samples.npy"))
    model = tmp_path / "model.onnx"
    assert "100 validation images" in module.publish_run(old, model)
    spec = Classifier(model, device="cpu").spec
    assert spec.calibration == "none: the run has no validation scores"
    assert spec.thresholds == (0.5,) * 3
    monkeypatch.setattr(module, "convert", lambda *_: onnx.load(model))  # a second time it would be the same
    assert "64 drawn images (the run's own are gone)" in module.publish_run(blind, tmp_path / "blind.onnx")
    spec = Classifier(tmp_path / "blind.onnx", device="cpu").spec
    assert spec.calibration == "none: the images are gone that its scores could be checked on"
    assert not spec.operating_points
    with pytest.raises(ModelError, match="what int8 loses cannot be measured"):
        module.publish_run(old, tmp_path / "small.onnx", "int8")
    assert not (tmp_path / "small.onnx").exists()
    module.publish_run(old, tmp_path / "small.onnx", "fp16", allow_loss=True)
    assert not Classifier(tmp_path / "small.onnx", device="cpu").spec.metrics  # those of fp32 are not its own


@pytest.fixture(scope="module")
def certain() -> Any:
    """A network whose scores are all 0 or 1."""
    import keras

    from export.convert import convert
    from export.run import TrainedNetwork
    from export.verify import draw_samples

    spec = ModelSpec("certain", "1", ("A", "B"), ImageSpec(8, 8), (0.5, 0.5))
    image = keras.Input((8, 8, 1))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    network = keras.Model(image, keras.layers.Dense(2, activation="sigmoid")(mean))
    network.layers[-1].set_weights([np.array([[1.0, -2.0]], np.float32), np.zeros(2, np.float32)])
    return TrainedNetwork(network, spec, draw_samples(spec.image)), convert(network, spec)


def test_a_changed_weight_shows_where_scores_are_0_or_1(
    certain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import publish as module

    trained, model = certain
    damaged = onnx.ModelProto()
    damaged.CopyFrom(model)
    damage_weights(damaged)
    monkeypatch.setattr(module, "convert", lambda *_: damaged)
    said = r"model\.onnx was not published: .* differ by .* at most, their logits by 1\.0e-02 of"
    with pytest.raises(ModelError, match=said):
        module.publish(trained, tmp_path / "model.onnx", "fp32", allow_loss=False)


def test_64_images_are_compared_at_each_batch_size(
    certain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import publish as module

    asked = []
    score = Classifier.score

    def spy(self: Classifier, images: Any) -> Any:
        asked.append(len(images))
        return score(self, images)

    trained, model = certain
    monkeypatch.setattr(module, "convert", lambda *_: model)
    monkeypatch.setattr(Classifier, "score", spy)
    line, _ = module.publish(trained, tmp_path / "model.onnx", "fp32", allow_loss=False)
    assert "the scores of 64 drawn images in batches of 8, all of them also of 1 and 3 differ" in line
    assert Counter(asked) == {1: 64 + 1, 3: 21, 8: 8}  # 64 are 21 times 3, and 1


def test_a_network_that_gives_no_numbers_is_not_published(
    certain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    from export.publish import publish

    trained, model = certain
    damaged = keras.models.clone_model(trained.network)
    damaged.layers[-1].set_weights([np.full((1, 2), np.nan), np.zeros(2)])
    with pytest.raises(ModelError, match="scores that are no numbers"):
        publish(replace(trained, network=damaged), tmp_path / "model.onnx", "fp32", allow_loss=False)
    infinite = onnx.ModelProto()
    infinite.CopyFrom(model)
    damage_weights(infinite, math.nan)
    monkeypatch.setattr("export.publish.convert", lambda *_: infinite)
    model = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match=f"^{model} was not published: gives scores that are no numbers"):
        publish(trained, model, "fp32", allow_loss=False)


@pytest.mark.usefixtures("converted")
def test_rounding_of_keras_itself_is_not_held_against_the_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import publish as module
    from export import verify

    asked = []

    def compare(expected: Any, *arguments: Any) -> Any:
        asked.append(expected)
        proof = verify.compare(expected, *arguments)
        return replace(proof, difference=1e-4) if len(asked) == 1 else proof

    monkeypatch.setattr(module, "compare", compare)
    module.publish_run(run, tmp_path / "model.onnx")
    assert len(asked) == 2
    spec = Classifier(tmp_path / "model.onnx", device="cpu").spec
    assert spec.provenance["compared_with"] == "Keras in float64"
    assert 0 < np.abs(asked[0] - asked[1]).max() < 1e-5


@pytest.mark.usefixtures("converted")
@pytest.mark.parametrize("precision", ["fp16-weights", "fp16", "int8"])
def test_lower_precision_is_smaller_and_its_loss_is_known(
    run: Path, exported: Path, tmp_path: Path, precision: Any
) -> None:
    from chexscore.metrics import auroc_macro
    from export.publish import publish_run
    from export.quantize import set_apart

    model = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match="--default Opacity=best: it takes LABEL=POINT"):
        publish_run(run, model, precision, defaults={"Opacity": "best"})
    with pytest.raises(UsageError, match="is what this reads"):
        publish_run(run, run / "network.keras")
    publish_run(run, model, precision, allow_loss=True, defaults={"Opacity": "sensitivity 95 %"})
    assert model.stat().st_size < exported.stat().st_size
    classifier, exact = Classifier(model, device="cpu"), Classifier(exported, device="cpu")
    own = 75 if precision == "int8" else 100  # the others gave int8 its ranges
    assert classifier.spec.metrics["images"] == own
    assert f"{own} images of" in classifier.spec.provenance["measured_on"]
    assert (
        json.loads((run / "metrics.json").read_text())["validation"]["ece/macro"]["value"]
        == (exact.spec.metrics["ece/macro"])
    )
    assert classifier.spec.precision == precision
    fitted = {name: value for name, value in exact.spec.metrics.items() if name.startswith("calibration_")}
    assert fitted
    assert fitted.items() <= classifier.spec.metrics.items()
    first = {label: points[0].name for label, points in classifier.spec.operating_points.items()}
    assert first == {"Opacity": "sensitivity 95 %", "Device": "youden"}
    assert (
        classifier.spec.default_thresholds["Opacity"]
        == classifier.spec.operating_points["Opacity"][0].threshold
    )
    assert abs(float(classifier.spec.provenance["auc_lost"])) < 0.02
    assert float(classifier.spec.provenance["fp32_difference_to_keras"]) <= 1e-5
    assert "difference_to_keras" not in classifier.spec.provenance
    images = np.load(run / "samples.npy")
    with np.load(run / "validation.npz") as arrays:
        truth, patients = (arrays[name][arrays["samples"]] for name in ("targets", "patients"))
    chosen = ~set_apart(patients) if precision == "int8" else np.full(100, fill_value=True)
    scores = classifier.score(images)[chosen]
    difference = np.abs(scores - exact.score(images)[chosen]).max()
    measured = float(classifier.spec.provenance["difference_after_reduction"])
    assert 1e-5 < difference == pytest.approx(measured, rel=0.1)
    assert classifier.spec.metrics["auc/macro"] == pytest.approx(auroc_macro(truth[chosen], scores), abs=1e-6)
    positive = truth[chosen, 0] == 1
    for point in classifier.spec.operating_points["Opacity"]:
        called = scores[:, 0].round(6) >= point.threshold
        assert point.sensitivity == pytest.approx(called[positive].mean(), abs=1e-6)
        assert point.specificity == pytest.approx((~called[~positive]).mean(), abs=1e-6)
    kinds = {item.data_type for item in onnx.load(model).graph.initializer}
    assert (onnx.TensorProto.INT8 if precision == "int8" else onnx.TensorProto.FLOAT16) in kinds
    graph = onnx.load(model).graph
    to = [node.attribute[0].i for node in graph.node if node.op_type == "Cast"]
    assert (onnx.TensorProto.FLOAT16 in to) == (precision == "fp16")
    if precision == "fp16-weights":  # whatever computes takes floats of 32 bits
        floats = {node.output[0] for node in graph.node if node.op_type == "Cast"}
        weights = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:2]}
        assert weights
        assert weights <= floats


@pytest.mark.usefixtures("converted")
def test_what_loses_too_much_is_refused_unless_allowed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import lower
    from export import publish as module

    def coarse(model: onnx.ModelProto, *_: object) -> onnx.ModelProto:
        other = onnx.ModelProto()
        other.CopyFrom(model)
        swap_labels(other)
        return other

    def faint(model: onnx.ModelProto, *_: object) -> onnx.ModelProto:
        """AUC does not see it."""
        other = onnx.ModelProto()
        other.CopyFrom(model)
        next(node for node in other.graph.node if "scores" in node.output).output[0] = "bright"
        other.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0.1, np.float32), "tenth"))
        other.graph.node.append(onnx.helper.make_node("Mul", ["bright", "tenth"], ["scores"]))
        return other

    target = tmp_path / "model.onnx"
    monkeypatch.setattr(lower, "reduce", faint)
    with pytest.raises(ModelError, match=r"fp16 moves the scores of \w+ by 0\.\d+ on average, above"):
        module.publish_run(run, target, "fp16")
    few = copy_of(run, tmp_path / "few")
    arrays = dict(np.load(run / "validation.npz"))
    np.savez(few / "validation.npz", **{**arrays, "samples": arrays["samples"][:20]})
    np.save(few / "samples.npy", np.load(run / "samples.npy")[:20])
    monkeypatch.setattr(lower, "reduce", coarse)
    with pytest.raises(ModelError, match="there are 20 validation images for it, of at least 64"):
        module.publish_run(few, target, "fp16")
    with pytest.raises(ModelError, match=r"int8 loses 0\.\d+ macro AUC, .*--allow-loss"):
        module.publish_run(run, target, "int8")
    assert not target.exists()
    module.publish_run(run, target, "int8", allow_loss=True)
    assert float(Classifier(target, device="cpu").spec.provenance["auc_lost"]) > 0.002


def test_the_ranges_of_int8_come_from_other_patients_than_its_loss() -> None:
    from export.quantize import RANGE_IMAGES, set_apart

    for images, share in ((100, 25), (2000, RANGE_IMAGES)):
        patients = np.array([f"p{row // 3}" for row in range(images)])
        apart = set_apart(patients)
        assert share - 3 < apart.sum() <= share
        assert not set(patients[apart]) & set(patients[~apart])
    assert set_apart(np.array(["a"] * 9 + ["b"])).any()
    with pytest.raises(ModelError, match="int8 needs two validation patients"):
        set_apart(np.array(["a"] * 9))


def test_what_cannot_be_exported_is_refused_with_the_reason(run: Path, tmp_path: Path) -> None:
    from export.publish import publish_run

    with pytest.raises(UsageError, match="not the folder of a finished run"):
        publish_run(tmp_path, tmp_path / "model.onnx")
    for output, said in (
        (tmp_path / "none" / "model.onnx", "there is no folder"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(UsageError, match=said):
            publish_run(run, output)

    spec = ModelSpec.from_json((run / "spec.json").read_text())
    others = {
        "labels": replace(spec, labels=("A", "B"), thresholds=(0.5,) * 2, operating_points={}),
        "size": replace(spec, image=ImageSpec(32, 32)),
    }
    for name, other in others.items():
        copy = copy_of(run, tmp_path / name, without="validation.npz")
        (copy / "spec.json").write_text(other.to_json())
        said = (
            "its description promises" if name == "labels" else r"the run promises uint8 \('N', 32, 32, 1\)"
        )
        with pytest.raises(ModelError, match=said):
            publish_run(copy, tmp_path / "model.onnx")
    (tmp_path / "size" / "samples.npy").unlink()
    with pytest.raises(ModelError, match="its description promises"):
        publish_run(tmp_path / "size", tmp_path / "model.onnx")
    (tmp_path / "labels" / "validation.npz").write_bytes((run / "validation.npz").read_bytes())
    with pytest.raises(ModelError, match=r"has scores of shape \(300, 3\)"):
        publish_run(tmp_path / "labels", tmp_path / "model.onnx")
    mixed_up = copy_of(run, tmp_path / "mixed-up")
    table = mixed_up / "validation.csv"
    table.write_text(",".join(["path", "patient", LABELS[1], LABELS[0], LABELS[2]]) + "\n")
    with pytest.raises(ModelError, match="its columns of labels are"):
        publish_run(mixed_up, tmp_path / "model.onnx")
    table.write_text(",".join(["path", "patient", *LABELS]) + "\n")
    arrays = dict(np.load(run / "validation.npz"))
    np.savez(mixed_up / "validation.npz", **{**arrays, "scores": arrays["scores"][:, [1, 0, 2]]})
    with pytest.raises(ModelError, match="the two are of different runs"):
        publish_run(mixed_up, tmp_path / "model.onnx")
    for changed, said in (
        ({"samples": arrays["samples"] + 3}, "its samples are not rows of its 300 images"),
        ({"samples": np.arange(99)}, "holds 100 images, validation.npz speaks of 99"),
        ({"scores": arrays["scores"] * np.nan}, "scores that are no numbers from 0 to 1"),
        ({"targets": arrays["targets"] - 1}, "targets that are not 0, 1 or unknown"),
        ({"targets": np.full(arrays["targets"].shape, "yes")}, "damaged, or not written by this version"),
    ):
        np.savez(mixed_up / "validation.npz", **{**arrays, **changed})
        with pytest.raises(ModelError, match=said):
            publish_run(mixed_up, tmp_path / "model.onnx")
    for name, said in (
        ("network.keras", "cannot load the network"),
        ("validation.npz", "damaged"),
        ("spec.json", "spec.json: the model's description"),
    ):
        torn = copy_of(run, tmp_path / f"torn-{name}")
        (torn / name).write_bytes((run / name).read_bytes()[:100])
        with pytest.raises(ModelError, match=said):
            publish_run(torn, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_damage_of_any_kind_is_told_with_the_file(run: Path, tmp_path: Path) -> None:
    """Each of these led to another exception."""
    from export.run import open_run

    scores, images = ((run / name).read_bytes() for name in ("validation.npz", "samples.npy"))
    entry = re.compile(rb"(PK\x01\x02.{4})(..)(..)", re.DOTALL)  # of zip's directory: flags and compression
    for number, (name, content, said) in enumerate(
        (
            ("validation.npz", entry.sub(b"\\1\x01\0\\3", scores), "damaged.*encrypted"),
            ("validation.npz", entry.sub(b"\\1\\2\x63\0", scores), "damaged.*compression"),
            ("samples.npy", images.replace(b")", b"'", 1), "cannot be read.*EOF"),
            ("samples.npy", images.replace(b"(", b"(" + b"9" * 20, 1), "cannot be read.*too large"),
            (
                "network.keras",
                (run / "network.keras").read_bytes()[:-9],
                "cannot load .*: the file is damaged",
            ),
            ("validation.csv", b"path," + b"x" * 200_000, "damaged: field larger than field limit"),
        )
    ):
        damaged = copy_of(run, tmp_path / str(number))
        (damaged / name).write_bytes(content)
        with pytest.raises(ModelError, match=said) as caught:
            open_run(damaged)
        assert str(caught.value).startswith(f"{damaged / name}: ")


def test_drawn_images_make_up_for_few_of_its_own(run: Path, tmp_path: Path) -> None:
    from export.run import open_run

    small = copy_of(run, tmp_path / "small")
    arrays = dict(np.load(run / "validation.npz"))
    np.savez(small / "validation.npz", **{**arrays, "samples": arrays["samples"][:20]})
    np.save(small / "samples.npy", np.load(run / "samples.npy")[:20])
    samples = open_run(small).samples
    assert samples.what == "20 validation images and 44 drawn ones"
    assert len(samples.images) == 64
    assert samples.rows.tolist() == [*arrays["samples"][:20], *[-1] * 44]


def test_a_network_trained_in_mixed_precision_is_published_in_float32(tmp_path: Path) -> None:
    from export.run import in_precision, load_network
    from training.networks import build

    network = build(NetworkConfig(name="compact", width=4), ImageSpec(32, 32), 2, precision="mixed_bfloat16")
    network.save(tmp_path / "network.keras")
    exact = load_network(tmp_path / "network.keras")
    assert {layer.compute_dtype for layer in exact.layers} == {"float32"}
    films = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 1)).astype(np.float32)
    difference = np.abs(np.asarray(exact(films)) - np.asarray(network(films), np.float32)).max()
    assert 0 < difference < 0.05
    precise = np.asarray(in_precision(exact, "float64")(films))
    assert precise.dtype == np.float64
    assert 0 < np.abs(precise - np.asarray(exact(films))).max() < 1e-5


def test_networks_that_are_none_of_ours_are_refused() -> None:
    import keras

    from export.convert import convert

    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    spec = ModelSpec("x", "1", ("A", "B"), ImageSpec(8, 8), (0.5, 0.5))
    softmax = keras.Model(image, keras.layers.Dense(2, activation="softmax", name="last")(flat))
    with pytest.raises(ModelError, match="ends in the layer last, which is no sigmoid"):
        convert(softmax, spec)
    odd = keras.layers.Dense(2, activation="sigmoid")(keras.ops.erfinv(flat / 1000))
    with pytest.raises(ModelError, match="Erfinv"):
        convert(keras.Model(image, odd), spec)


def test_a_layer_that_tf2onnx_cannot_convert_is_named(certain: Any, caplog: pytest.LogCaptureFixture) -> None:
    import keras

    from export.convert import convert

    trained, _ = certain
    image = keras.Input((8, 8, 1))
    bent = keras.layers.Lambda(lambda x: keras.ops.gelu(x, approximate=False), name="bent")(image)
    mean = keras.layers.GlobalAveragePooling2D()(bent)
    network = keras.Model(image, keras.layers.Dense(2, activation="sigmoid")(mean))
    with pytest.raises(ModelError, match=r"^tf2onnx cannot convert the Erfc at \S*bent\S*; replace that"):
        convert(network, trained.spec)
    assert not caplog.records


def test_a_full_folder_for_temporary_files_is_told_as_such(
    certain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tempfile import gettempdir

    from export.files import candidate
    from export.fold import fold

    said = f"^the network cannot be held in the folder for temporary files, {gettempdir()}; set TMPDIR"
    _, model = certain
    with pytest.raises(OutputError, match=said), candidate(tmp_path / "model.onnx"):
        onnx.save(model, "/dev/full")
    (tmp_path / "basic.onnx").symlink_to("/dev/full")
    monkeypatch.setattr("export.fold.temporary_folder", lambda: nullcontext(tmp_path))
    with pytest.raises(OutputError, match=said):
        fold(model)


def test_the_reference_network_is_a_graph_without_waste(tmp_path: Path) -> None:
    """A narrow one, with the same layers."""
    import keras

    from export.calibrate import Platt, sigmoid
    from export.convert import convert, predict_logits
    from export.quantize import reduce
    from export.run import in_precision
    from export.verify import LOGIT_TOLERANCE, TOLERANCE, compare, compare_logits, draw
    from training.networks import build

    image = ImageSpec(512, 512)
    keras.utils.set_random_seed(0)
    network = build(NetworkConfig(name="reference", width=2), image, 2)
    shake(network)
    films = draw(image, 3)
    platt = Platt(np.array([0.5, 3.0]), np.array([-1.0, 0.25]))
    logits = platt.logits(predict_logits(in_precision(network, "float64"), films))

    model = convert(network, ModelSpec("narrow", "1", ("A", "B"), image, (0.5, 0.5)), platt)
    onnx.save(model, tmp_path / "narrow.onnx")
    assert compare(sigmoid(logits), tmp_path / "narrow.onnx", films, "films").difference <= TOLERANCE
    assert compare_logits(logits, model, films) <= LOGIT_TOLERANCE
    shifts = 7  # of the batch norms; their scales are in the weights of the convolutions ahead of them
    assert Counter(node.op_type for node in model.graph.node) == {
        "Cast": 1,
        "Mul": 1,
        "Add": shifts,
        "Reshape": 2,
        "Conv": 7,
        "Relu": 9,
        "MaxPool": 7,
        "Gemm": 3,
        "Sigmoid": 1,
    }
    small = Counter(node.op_type for node in reduce(model, "int8", films).graph.node)
    # The ReLU of the first convolution, in floats as that one, and the shift ahead of what flattens the last
    # map.
    assert (small["Relu"], small["Mul"], small["Add"]) == (1, 1, 1)
    assert [item.version for item in model.opset_import if not item.domain] == [18]
    for value, name, kind in (
        (model.graph.input[0], "image", onnx.TensorProto.UINT8),
        (model.graph.output[0], "scores", onnx.TensorProto.FLOAT),
    ):
        assert (value.name, value.type.tensor_type.elem_type) == (name, kind)
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_same_network_is_the_same_file() -> None:
    """tf2onnx numbers names as it meets them; Keras's own count begins anew in each process."""
    import keras

    from export.convert import convert
    from training.networks import build

    image = ImageSpec(32, 32)
    config = NetworkConfig(name="compact", width=4, standardize=True)
    files = set()
    for _ in range(2):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        network = build(config, image, 2, mirrored=True)
        model = convert(network, ModelSpec("small", "1", ("A", "B"), image, (0.5, 0.5)))
        onnx.checker.check_model(model, full_check=True)
        assert len({node.name for node in model.graph.node}) == len(model.graph.node)
        files.add(model.SerializeToString(deterministic=True))
    assert len(files) == 1


def converted_operators(network: Any, folder: Path) -> Counter[str]:
    """How often each operator stands in the graph of a network for 32 x 32 pixels; checks its scores."""
    from export.convert import convert
    from export.verify import TOLERANCE, compare, draw

    shake(network)
    image = ImageSpec(32, 32)
    films = draw(image, 16)
    model = convert(network, ModelSpec("small", "1", ("A",), image, (0.5,)))
    onnx.save(model, folder / "model.onnx")
    expected = np.asarray(network.predict_on_batch(films))
    assert compare(expected, folder / "model.onnx", films, "films").difference <= TOLERANCE
    return Counter(node.op_type for node in model.graph.node)


def test_flattening_a_map_builds_no_shape_at_run_time(tmp_path: Path) -> None:
    from keras import Input, Model, layers

    inputs = Input((32, 32, 1))
    x = layers.Flatten()(layers.Conv2D(4, 3, strides=2)(layers.Rescaling(1 / 255)(inputs)))
    network = Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    counted = converted_operators(network, tmp_path)
    once = ("Cast", "Mul", "Conv", "Transpose", "Gemm", "Sigmoid")
    assert counted == {**dict.fromkeys(once, 1), "Reshape": 2}


def test_channel_attention_keeps_no_transposes_and_padding_the_shift_of_its_batch_norm(
    tmp_path: Path,
) -> None:
    import keras
    from keras import layers

    inputs = keras.Input((32, 32, 1))
    x = layers.Conv2D(4, 3, activation="relu", padding="same")(layers.Rescaling(1 / 255)(inputs))
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    weight = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(x))
    x = x * layers.Conv2D(4, 1, activation="sigmoid")(weight)
    x = layers.Conv2D(4, 3)(x)
    out = layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    network = keras.Model(inputs, out)
    counted = converted_operators(network, tmp_path)
    assert counted["Transpose"] == 0
    assert (counted["Mul"], counted["Add"]) == (2, 1)  # scaling, attention; the padded one's shift


def test_a_label_with_one_class_alone_has_no_operating_point(run: Path, tmp_path: Path) -> None:
    from export.publish import publish_run

    copy = copy_of(run, tmp_path / "copy")
    arrays = dict(np.load(copy / "validation.npz"))
    arrays["targets"][:, 0] = 0
    arrays["targets"][:, 1] = np.nan
    np.savez(copy / "validation.npz", **arrays)
    publish_run(copy, tmp_path / "model.onnx")
    spec = Classifier(tmp_path / "model.onnx", device="cpu").spec
    assert list(spec.operating_points) == ["Rare"]
    assert spec.thresholds[:2] == (0.5, 0.5)
    assert (
        spec.calibration == "none: Opacity (only 0 patients with it), Device (only 0 patients with it), "
        "Rare (only 5 patients with it)"
    )
    assert "ece/Device" not in spec.metrics
    assert all(math.isfinite(value) for value in spec.metrics.values())


def test_a_model_gets_no_name_of_another_kind(tmp_path: Path) -> None:
    from export import __main__ as command

    (tmp_path / "out.csv").write_text("precious")
    with pytest.raises(UsageError, match=r"published under a name that ends in \.onnx"):
        command.app([str(tmp_path), "-o", str(tmp_path / "out.csv")], standalone_mode=False)
    assert (tmp_path / "out.csv").read_text() == "precious"


def test_a_default_is_for_a_label_with_an_equals_sign_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from export import __main__ as command

    given: list[Any] = []

    def publish(*_: Any, **options: Any) -> str:
        given.append(options)
        return "done"

    monkeypatch.setattr("export.publish.publish_run", publish)
    command.run(Path("run"), Path("model.onnx"), default=["a=b=youden", "C=sensitivity 95 %"])
    assert given[0]["defaults"] == {"a=b": "youden", "C": "sensitivity 95 %"}
    for wrong, said in (
        (["Opacity"], "--default Opacity: it takes LABEL=POINT"),
        (["C=youden", "C=best accuracy"], "--default C=best accuracy: C has 'youden' already"),
    ):
        with pytest.raises(UsageError, match=said):
            command.run(Path("run"), Path("model.onnx"), default=wrong)


def test_a_command_that_is_misspelt_is_no_run_folder() -> None:
    from export import __main__ as command

    with pytest.raises(UsageError, match="no command and no run folder is called adpot"):
        command.app(["adpot", "f.onnx", "--spec", "s.toml", "-o", "m.onnx"], standalone_mode=False)
