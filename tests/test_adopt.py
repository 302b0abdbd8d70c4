"""Networks from elsewhere, small enough to be worked out with numpy."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from chexscore import Classifier, predict
from chexscore.errors import ModelError, UsageError
from export.adopt import publish_foreign
from export.foreign import ForeignSpec
from export.template import write_template
from tests.networks import brightness_model
from tests.phantoms import draw

ROOT = Path(__file__).parents[1]
RANDOM = np.random.default_rng(0)
MIX = {channels: RANDOM.normal(size=(4, channels)).astype(np.float32) for channels in (1, 3)}
HEAD = RANDOM.normal(size=(4, 3)).astype(np.float32)
SIZE = 12


def foreign_model(  # noqa: PLR0913, what such files differ in
    path: Path,
    *,
    channels: int = 1,
    batch: Any = "batch",
    layout: str = "NCHW",
    end: tuple[str, ...] = (),
    head: NDArray[np.float32] = HEAD,
    name: str = "scores",
    shaped: bool = True,
    opset: int = 13,
) -> Path:
    """Each pixel's channels are mixed, positives averaged, and the means weighed for three labels."""
    to_planes = (
        [helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    )
    nodes = [
        *to_planes,
        helper.make_node("Conv", ["planes" if to_planes else "x", "mix"], ["mixed"]),
        helper.make_node("Relu", ["mixed"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits" if end else name]),
    ]
    more: dict[str, dict[str, Any]] = {"Cast": {"to": TensorProto.FLOAT}, "Concat": {"axis": 1}}
    for number, operator in enumerate(end, 1):
        given = name if number == len(end) else f"{operator}/out"
        inputs = [nodes[-1].output[0], *(["ninth"] if operator in ("Div", "Mul") else [])]
        nodes.append(helper.make_node(operator, inputs, [given], **more.get(operator, {})))
    shape = [batch, channels, SIZE, SIZE] if layout == "NCHW" else [batch, SIZE, SIZE, channels]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3] if shaped else None)],
        [
            numpy_helper.from_array(MIX[channels][:, :, np.newaxis, np.newaxis], "mix"),
            numpy_helper.from_array(head, "head"),
            *(
                [numpy_helper.from_array(np.array(9, np.float32), "ninth")]
                if {"Div", "Mul"} & set(end)
                else []
            ),
        ],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="elsewhere"), path)
    return path


def spec_for(foreign: Path, *, labels: str = '["A", "B", "C"]', **settings: str) -> Path:
    """The template, edited."""
    path = foreign.with_suffix(".toml")
    write_template(foreign, path)
    lines = path.read_text().splitlines()
    start, end = lines.index("labels = ["), lines.index("]")
    lines[start : end + 1] = [f"labels = {labels}"]
    for name, value in settings.items():
        lines = [f"{name} = {value}" if line.startswith(f"{name} =") else line for line in lines]
    path.write_text("\n".join(lines))
    return path


def by_hand(
    films: NDArray[np.uint8],
    channels: int,
    head: NDArray[np.float32],
    low: float,
    high: float,
    mean: Any,
    std: Any,
) -> Any:
    values = (low + films / 255 * (high - low) - mean) / std * np.ones(channels)
    features = np.maximum(values @ MIX[channels].T.astype(np.float64), 0).mean(axis=(1, 2))
    return 1 / (1 + np.exp(-features @ head))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for seed in range(5):
        Image.fromarray(draw(seed, size=SIZE)).save(folder / f"{seed}.png")
    return folder


@pytest.mark.parametrize(
    ("model", "settings", "numbers"),
    [
        ({}, {"black": "-3.0", "white": "3.0"}, (-3, 3, 0, 1)),
        (
            {"channels": 3},
            {"mean": "[0.5, 0.4, 0.3]", "std": "[0.2, 0.3, 0.4]"},
            (0, 1, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
        ),
        ({"batch": 1}, {}, (0, 1, 0, 1)),
        (
            {"batch": 4, "channels": 3},
            {"white": "255.0", "mean": "[99.0]", "std": "[50.0]"},
            (0, 255, 99, 50),
        ),
        ({"layout": "NHWC", "channels": 3}, {"black": "1.0", "white": "-1.0"}, (1, -1, 0, 1)),
        ({"layout": "NHWC", "batch": 1}, {}, (0, 1, 0, 1)),
        ({"end": ("Sigmoid",)}, {}, (0, 1, 0, 1)),
        ({"end": ("Sigmoid", "Identity"), "name": "oceně\x7f😀"}, {}, (0, 1, 0, 1)),
        ({"shaped": False}, {}, (0, 1, 0, 1)),
        ({"head": np.abs(HEAD) / 9}, {}, (0, 1, 0, 1)),  # logits that happen to lie in 0..1
        ({"head": np.abs(HEAD) / 9, "end": ("Cast", "Concat")}, {}, (0, 1, 0, 1)),
        ({"end": ("Sigmoid", "Cast", "Concat")}, {}, (0, 1, 0, 1)),
        ({"end": ("Abs",), "head": 9 * np.abs(HEAD)}, {"kind": '"logits"'}, (0, 1, 0, 1)),
        ({"end": ("Sigmoid",), "opset": 10}, {}, (0, 1, 0, 1)),
        ({"name": "location", "batch": -1}, {}, (0, 1, 0, 1)),
    ],
)
def test_predict_gives_what_the_network_gives(
    films: Path, tmp_path: Path, model: dict[str, Any], settings: dict[str, str], numbers: Any
) -> None:
    foreign = foreign_model(tmp_path / "foreign.onnx", **model)
    spec = spec_for(foreign, **settings)
    kind = tomllib.loads(spec.read_text())["output"]["kind"]
    assert kind == ("probabilities" if "Sigmoid" in model.get("end", ()) else "logits")
    line = publish_foreign(foreign, spec, tmp_path / "model.onnx")
    assert "wrapped and alone, the scores of 64 drawn images in batches of 8, all of them also of" in line
    stacked = np.stack([np.asarray(Image.open(path)) for path in sorted(films.iterdir())])[..., np.newaxis]
    expected = by_hand(stacked, model.get("channels", 1), model.get("head", HEAD), *numbers)
    found = [list(row.scores.values()) for row in predict(films, tmp_path / "model.onnx", batch_size=2)]
    assert np.abs(np.array(found) - expected).max() < 1e-5
    assert np.ptp(expected, axis=0).min() > 1e-4


def test_logits_of_classes_that_exclude_each_other_get_a_softmax(films: Path, tmp_path: Path) -> None:
    foreign = foreign_model(tmp_path / "foreign.onnx")
    spec = spec_for(foreign, labels='["", "B", "C"]', kind='"softmax"')
    publish_foreign(foreign, spec, tmp_path / "model.onnx")
    stacked = np.stack([np.asarray(Image.open(path)) for path in sorted(films.iterdir())])[..., np.newaxis]
    scores = by_hand(stacked, 1, HEAD, 0, 1, 0, 1)
    odds = scores / (1 - scores)
    found = [list(row.scores.values()) for row in predict(films, tmp_path / "model.onnx")]
    assert np.array(found) == pytest.approx((odds / odds.sum(axis=1, keepdims=True))[:, 1:], abs=1e-5)


def test_the_file_says_where_it_comes_from_and_leaves_out_what_has_no_name(tmp_path: Path) -> None:
    foreign = foreign_model(tmp_path / "fremd-😀.onnx")
    spec = spec_for(foreign, labels='["A", "", "C"]', resize='"crop"', licence='"CC0"')
    publish_foreign(foreign, spec, tmp_path / "model.onnx")
    classifier = Classifier(tmp_path / "model.onnx", device="cpu")
    assert (classifier.spec.name, classifier.spec.labels) == ("fremd-😀", ("A", "C"))
    assert (classifier.spec.image.resize, classifier.spec.licence) == ("crop", "CC0")
    assert classifier.spec.provenance["made_by"] == "elsewhere"
    assert float(classifier.spec.provenance["difference_to_original"]) < 1e-5
    film = draw(1, size=SIZE)[np.newaxis, ..., np.newaxis]
    assert classifier.score(film)[0] == pytest.approx(by_hand(film, 1, HEAD, 0, 1, 0, 1)[0, [0, 2]], abs=1e-5)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_graphs_inside_may_use_weights_and_parts_may_carry_notes(tmp_path: Path, batch: Any) -> None:
    """PyTorch notes at each node which line of Python it comes from; "location" would be a good name."""
    foreign = foreign_model(tmp_path / "foreign.onnx", batch=batch)
    network = onnx.load(foreign)
    graph, branches = network.graph, {}
    for name, node in (
        ("then_branch", helper.make_node("Mul", ["mixed", "two"], ["doubled"])),
        ("else_branch", helper.make_node("Identity", ["mixed"], ["same"])),
    ):
        given = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([node], name, [], [given])
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(2, np.float32), "two"),
            numpy_helper.from_array(np.array([True]), "yes"),
        ]
    )
    place = next(place for place, node in enumerate(graph.node) if node.op_type == "Relu")
    graph.node[place].input[0] = "chosen"
    graph.node.insert(place, helper.make_node("If", ["yes"], ["chosen"], **branches))
    inside = graph.node[place].attribute[0].g.node[0]
    for item in (*graph.node, *graph.input, *graph.initializer, inside):
        item.metadata_props.add(key="location", value="model.py:7")
    onnx.save(network, foreign)
    publish_foreign(foreign, spec_for(foreign, kind='"logits"'), tmp_path / "model.onnx")
    film = draw(1, size=SIZE)[np.newaxis, ..., np.newaxis]
    expected = by_hand(film, 1, 2 * HEAD, 0, 1, 0, 1)
    assert Classifier(tmp_path / "model.onnx", device="cpu").score(film) == pytest.approx(expected, abs=1e-5)


def test_a_batch_that_is_only_declared_to_be_open_is_told_as_such(tmp_path: Path) -> None:
    foreign = foreign_model(tmp_path / "foreign.onnx")
    network = onnx.load(foreign)
    node = next(node for node in network.graph.node if node.op_type == "Flatten")
    node.CopyFrom(helper.make_node("Reshape", ["mean", "row"], ["flat"]))
    network.graph.initializer.append(numpy_helper.from_array(np.array([1, 4]), "row"))
    onnx.save(network, foreign)
    said = rf"^{foreign} takes one image at a time, though .*; export it with a fixed batch of 1 \("
    with pytest.raises(ModelError, match=said):
        publish_foreign(foreign, spec_for(foreign), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_wrapping_that_scores_otherwise_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import adopt

    real = adopt.wrap

    def wrong(network: onnx.ModelProto, spec: ForeignSpec) -> onnx.ModelProto:
        brighter = spec.input.model_copy(update={"white": 1.1})
        return real(network, spec.model_copy(update={"input": brighter}))

    foreign = foreign_model(tmp_path / "foreign.onnx")
    monkeypatch.setattr(adopt, "wrap", wrong)
    with pytest.raises(ModelError, match=r"was not published: .* differ by"):
        publish_foreign(foreign, spec_for(foreign), tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.onnx", "foreign.toml"]


def test_a_wrapping_is_compared_where_scores_are_0_or_1_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import adopt

    real = adopt.wrap
    monkeypatch.setattr(
        adopt,
        "wrap",
        lambda network, spec: real(
            network, spec.model_copy(update={"input": spec.input.model_copy(update={"white": 1.01})})
        ),
    )
    certain = np.abs(HEAD) * np.array([400, -400, 400], np.float32)
    for end in ((), ("Sigmoid",)):
        foreign = foreign_model(tmp_path / f"{len(end)}.onnx", end=end, head=certain)
        with pytest.raises(ModelError, match=r"differ by .* at most, their logits by 1\.0e-02"):
            publish_foreign(foreign, spec_for(foreign), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": '["A", "B"]'}, r"'scores' is N x 3, the spec says N x 2"),
        ({"labels": '["A", "A", "B"]'}, "a label is named twice"),
        ({"labels": "[]"}, "output.labels"),
        ({"height": "13"}, r"'x' is N x 1 x 12 x 12, the spec says N x 1 x 13 x 12"),
        ({"channels": "3"}, "the spec says N x 3 x 12 x 12"),
        ({"channels": "2"}, "input.channels"),
        ({"mean": "[0.1, 0.2]"}, "mean has 2 values for 1 channels"),
        ({"std": "[0.0]"}, "std must not be 0"),
        ({"white": "0.0"}, "black and white must differ"),
        ({"kind": '"probabilities"'}, 'no probabilities, as .* has it; kind = "logits" puts a sigmoid'),
        ({"black": "nan"}, "input.black"),
        ({"black": "true"}, "input.black"),
        ({"mean": "[1e300]"}, "too large for float32"),
        ({"std": "[1e-300]"}, "too large for float32"),
        ({"white": "1e308", "mean": "[-1e308]"}, "too large for float32"),
        ({"labels": '["A", "B", "C"]\nthresholds = [true, 0.5, 0.5]'}, r"output\.thresholds\.0"),
        ({"labels": '["A", "B", "C"]\nthresholds = ["0.5", 0.5, 0.5]'}, r"output\.thresholds\.0"),
        ({"name": '""'}, "name: String should have at least 1 character"),
        ({"white": "1e-9"}, "gives all drawn films the same scores"),
        ({"kind": '"odds"'}, "output.kind"),
        ({"resize": '"squeeze"'}, "input.resize"),
        ({"layout": "NCHW"}, "not a TOML file"),
        ({"name": '"y"'}, "the graph has no 'y', but 'x'"),
        ({"labels": '["A", "Label 2", "C"]'}, "'Label 2' is what the template wrote"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    foreign = foreign_model(tmp_path / "foreign.onnx")
    spec = spec_for(foreign, **settings)
    with pytest.raises((ModelError, UsageError), match=said) as caught:
        publish_foreign(foreign, spec, tmp_path / "model.onnx")
    assert str(spec) in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()


def test_files_that_cannot_be_adopted_are_refused_with_the_reason(tmp_path: Path) -> None:
    good = foreign_model(tmp_path / "good.onnx")
    spec = spec_for(good)

    def changed(name: str, **change: Any) -> Path:
        model = onnx.load(good)
        for node in model.graph.node:
            node.op_type = change.get(node.op_type, node.op_type)
        if "opset" in change:
            model.opset_import[0].version = change["opset"]
        if "batch" in change:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = change["batch"]
        if "scale" in change:
            scaled = numpy_helper.to_array(model.graph.initializer[1]) * change["scale"]
            model.graph.initializer[1].CopyFrom(numpy_helper.from_array(scaled, "head"))
        if "constant" in change:
            elsewhere = numpy_helper.from_array(np.zeros(3, np.float32))
            elsewhere.data_location = TensorProto.EXTERNAL
            elsewhere.external_data.add(key="location", value="weights.bin")
            model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=elsewhere))
        if "sparse" in change:
            values = model.graph.initializer.pop()
            sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.arange(12)), [4, 3])
            sparse.values.dims[:] = [12]
            model.graph.sparse_initializer.append(sparse)
        if "type" in change:
            model.graph.input[0].type.tensor_type.elem_type = change["type"]
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path, save_as_external_data=name == "external", size_threshold=0)
        return path

    (tmp_path / "text.onnx").write_text("not a model")
    for path, said in (
        (tmp_path / "none.onnx", "cannot be read"),
        (tmp_path / "text.onnx", "not an ONNX file"),
        (changed("external"), "its weights lie in other files"),
        (changed("old", opset=8), "of opset 8"),
        (changed("unknown", Relu="Wobble"), "onnxruntime cannot run it: .*Wobble"),
        (changed("constant", constant=True), "its weights lie in other files"),
        (changed("sparse", sparse=True), "its weights 'head' are stored sparsely; export it with dense"),
        (changed("no-batch", batch=0), "'x' takes batches of 0 images"),
        (changed("infinite", scale=np.float32(np.inf)), "gives no numbers"),
        (foreign_model(tmp_path / "squeezed.onnx", end=("Sigmoid", "Identity")), "no second one"),
        (bytes_in := changed("bytes", type=TensorProto.UINT8), "'x' is UINT8, not FLOAT"),
        (changed("doubles", type=TensorProto.DOUBLE), "'x' is DOUBLE, not FLOAT"),
        (brightness_model(tmp_path / "ours.onnx"), "a model of chexscore already"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            publish_foreign(path, spec, tmp_path / "model.onnx")
        assert str(path) in str(caught.value)
    percent = foreign_model(tmp_path / "percent.onnx", end=("Sigmoid", "Mul"))
    untold = spec_for(percent)
    with pytest.raises(UsageError, match=r"output\.kind"):
        publish_foreign(percent, untold, tmp_path / "model.onnx")
    untold.write_text(untold.read_text().replace('kind = ""', 'kind = "probabilities"'))
    with pytest.raises(ModelError, match=r"values from .* to .*; end it in what it was trained to end in"):
        publish_foreign(percent, untold, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"bytes\.onnx: its input 'x' is UINT8; export it with a float32"):
        write_template(bytes_in, tmp_path / "bytes.toml")
    with pytest.raises(UsageError, match="exists already"):
        write_template(good, spec)
    with pytest.raises(UsageError, match="the spec cannot be read"):
        publish_foreign(good, tmp_path / "none.toml", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_the_commands_need_no_tensorflow_and_end_with_the_right_codes(tmp_path: Path) -> None:
    foreign = foreign_model(tmp_path / "foreign.onnx")

    def export(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "importtime", "-m", "export", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    spec, model = tmp_path / "spec.toml", tmp_path / "model.onnx"
    assert export("template", foreign, "-o", spec).returncode == 0
    unedited = export("adopt", foreign, "--spec", spec, "-o", model)
    assert unedited.returncode == 2
    assert "'Label 1' is what the template wrote; name the finding" in unedited.stderr
    spec.write_text(spec.read_text().replace("Label ", "Finding "))
    done = export("adopt", foreign, "--spec", spec, "-o", model)
    assert done.returncode == 0
    assert "published" in done.stderr
    assert "tensorflow" not in done.stderr
    assert Classifier(model, device="cpu").spec.labels == ("Finding 1", "Finding 2", "Finding 3")
    refused = export("adopt", tmp_path / "none.onnx", "--spec", spec, "-o", model)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("export: error: ")


def test_what_no_sigmoid_belongs_behind_is_no_logits(tmp_path: Path) -> None:
    logarithms = foreign_model(tmp_path / "logarithms.onnx", end=("LogSoftmax",))
    given = spec_for(logarithms)
    given.write_text(given.read_text().replace('kind = ""', 'kind = "logits"'))
    with pytest.raises(ModelError, match=r'no logits for a sigmoid.*kind = "softmax"'):
        publish_foreign(logarithms, given, tmp_path / "model.onnx")
    squeezed = foreign_model(tmp_path / "doubtful.onnx", end=("Sigmoid", "Abs"))
    given = spec_for(squeezed)
    untold = given.read_text()
    for kind in ("logits", "softmax"):
        given.write_text(untold.replace('kind = ""', f'kind = "{kind}"'))
        with pytest.raises(ModelError, match=r'as probabilities are.*kind = "probabilities" adds nothing'):
            publish_foreign(squeezed, given, tmp_path / "model.onnx")
    log = foreign_model(tmp_path / "log.onnx", end=("Sigmoid", "Log"))
    given = spec_for(log)
    given.write_text(given.read_text().replace('kind = ""', 'kind = "logits"'))
    with pytest.raises(ModelError, match=r"ends in a Log, whose values do not pass 0"):
        publish_foreign(log, given, tmp_path / "model.onnx")
    small = foreign_model(tmp_path / "small.onnx", end=("Abs",), head=np.abs(HEAD))
    given = spec_for(small, kind='"logits"')
    with pytest.raises(ModelError, match=r"as probabilities are.*else end it in what it was trained to"):
        publish_foreign(small, given, tmp_path / "model.onnx")


def test_a_size_that_the_file_leaves_open_is_not_guessed(tmp_path: Path) -> None:
    foreign = foreign_model(tmp_path / "foreign.onnx")
    network = onnx.load(foreign)
    for axis in network.graph.input[0].type.tensor_type.shape.dim[1:]:
        axis.dim_param = "open"
    onnx.save(network, foreign)
    spec = spec_for(foreign)
    given = tomllib.loads(spec.read_text())["input"]
    assert [given[name] for name in ("channels", "height", "width")] == [0, 0, 0]
    with pytest.raises(UsageError, match=r"input\.height"):
        publish_foreign(foreign, spec, tmp_path / "model.onnx")
