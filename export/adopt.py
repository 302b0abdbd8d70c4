"""A network from elsewhere -> the contract of chexscore's models, wrapped inside the graph."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from chexscore.errors import ModelError, NetworkError, first_line
from chexscore.messages import visible
from chexscore.sessions import open_session
from chexscore.spec import INPUT_NAME, OUTPUT_NAME, ModelSpec
from export.calibrate import sigmoid
from export.files import candidate, check_output, describe, place
from export.foreign import (
    ForeignSpec,
    batch_of,
    check,
    graphs_of,
    kind_of,
    last_node,
    opset_of,
    read_foreign,
    tensors_of,
)
from export.verify import LOGIT_TOLERANCE, TOLERANCE, Proof, compare, compare_logits, draw_samples

__all__ = ["publish_foreign", "wrap"]

PREFIX = "foreign/"

ROUNDING = 1e-6
"""How far outside 0..1 float32 takes a probability."""

LISTED_APART = 4
"""The version of ONNX's format since which weights need not be listed among the inputs."""

CLIP_BY_INPUTS = 11
"""The opset since which Clip takes its bounds as inputs, not as attributes."""


def publish_foreign(foreign: Path, spec: Path, output: Path) -> str:
    """Wraps a foreign network, and gives the file its name only if it scores as the network alone does.

    Returns:
        One line for the user.

    Raises:
        UsageError: the spec cannot be used, or the output cannot be written there.
        ModelError: the file cannot be used, is not what the spec says, or scores otherwise when wrapped.
    """
    check_output(output, (foreign, spec))
    described = ForeignSpec.from_toml(spec)
    network = read_foreign(foreign)
    try:
        check(network, described)
    except ModelError as error:
        raise ModelError(f"{foreign} is not what {spec} says: {error}") from error
    model_spec, wrapped = described.model, wrap(network, described)
    samples = draw_samples(model_spec.image)
    given = _run_alone(network, described, samples.images, foreign)
    _check_kind(given, network, described, foreign, spec)
    expected = _scores(given, described)
    front = in_front(network, described)
    logits = given if front is network else _run_alone(front, described, samples.images, foreign)
    kept = described.output.kept
    with candidate(output) as file:
        onnx.save(describe(wrapped, model_spec), file)
        try:
            proof = compare(expected, file, samples.images, samples.what)
        except NetworkError as error:  # alone it was given one image at a time
            raise ModelError(
                f"{foreign} takes one image at a time, though it declares any number; export it with a fixed "
                f"batch of 1 ({error})."
            ) from error
        apart = compare_logits(logits[:, kept], wrap(front, _as_logits(described)), samples.images)
        if not (proof.difference <= TOLERANCE and apart <= LOGIT_TOLERANCE):
            raise ModelError(
                f"{file}: wrapped and alone, {proof}, their logits by {apart:.1e} of their size; the "
                f"tolerances are {TOLERANCE:.0e} and {LOGIT_TOLERANCE:.0e}."
            )
    if np.ptp(expected, axis=0).max() < ROUNDING:
        raise ModelError(
            f"{foreign} gives all drawn films the same scores; black, white, mean, std or kind in {spec} are "
            "not what it was trained with."
        )
    place(wrapped, _with_provenance(model_spec, network, foreign, proof), output)
    return f"published {output}, {output.stat().st_size / 1e6:.1f} MB: wrapped and alone, {proof}"


def wrap(network: onnx.ModelProto, spec: ForeignSpec) -> onnx.ModelProto:
    """Puts scaling and layout in front of a foreign network, and sigmoid and choice of labels behind it.

    A network of a fixed batch size is run image by image.

    Args:
        network: as `read_foreign` gives it.
        spec: what it takes and gives.

    Returns:
        A graph from `image`, uint8 [N, H, W, 1], to `scores`, float32 [N, L].
    """
    batch = batch_of(network, spec)
    graph, constants = _apart(network), dict[str, NDArray[Any]]()
    nodes = _prepare(spec, constants)
    given, taken = PREFIX + spec.input.name, PREFIX + spec.output.name
    if batch:
        nodes.append(_one_by_one(graph, given, taken, batch, spec))
    else:
        nodes += [
            helper.make_node("Identity", ["prepared"], [given]),
            *graph.node,
            helper.make_node("Identity", [taken], ["given"]),
        ]
        constants |= {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    nodes += _finish(spec, constants, opset_of(network))
    image = helper.make_tensor_value_info(
        INPUT_NAME, TensorProto.UINT8, ["N", spec.input.height, spec.input.width, 1]
    )
    labels = sum(bool(label) for label in spec.output.labels)
    scores = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", labels])
    weights = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    wrapped = helper.make_graph(nodes, spec.name, [image], [scores], weights)
    version = max(network.ir_version, LISTED_APART)
    return helper.make_model(wrapped, opset_imports=network.opset_import, ir_version=version)


def _apart(network: onnx.ModelProto) -> onnx.GraphProto:
    """A copy of the graph whose names meet none of those around it, without notes.

    A note that is called "location" could not be told from weights in another file.
    """
    graph = onnx.GraphProto()
    graph.CopyFrom(network.graph)
    weights = {item.name: PREFIX + item.name for item in graph.initializer}  # graphs inside use them, too
    compose.add_prefix_graph(graph, PREFIX, inplace=True, name_map=weights)
    values = (
        item
        for each in graphs_of(graph)
        for item in (each, *each.node, *each.input, *each.output, *each.value_info)
    )
    for item in (*values, *tensors_of(graph)):
        if item.metadata_props:
            del item.metadata_props[:]
    return graph


def _prepare(spec: ForeignSpec, constants: dict[str, NDArray[Any]]) -> list[onnx.NodeProto]:
    """Nodes from `image` to `prepared`; one grey channel is spread to several by what it is scaled with."""
    low, high = np.float64(spec.input.black), np.float64(spec.input.white)
    mean, std = (np.array(values) for values in (spec.input.mean, spec.input.std))
    scale = np.broadcast_to((high - low) / 255 / std, spec.input.channels)
    offset = np.broadcast_to((low - mean) / std, spec.input.channels)
    spread = (-1, 1, 1) if spec.input.layout == "NCHW" else (-1,)
    constants["scale"] = scale.astype(np.float32).reshape(spread)
    constants["offset"] = offset.astype(np.float32).reshape(spread)
    nodes = [helper.make_node("Cast", [INPUT_NAME], ["pixels"], to=TensorProto.FLOAT)]
    pixels = "pixels"
    if spec.input.layout == "NCHW":
        constants["shape"] = np.array([-1, 1, spec.input.height, spec.input.width])
        nodes.append(helper.make_node("Reshape", ["pixels", "shape"], ["planes"]))
        pixels = "planes"
    nodes.append(helper.make_node("Mul", [pixels, "scale"], ["scaled"]))
    nodes.append(helper.make_node("Add", ["scaled", "offset"], ["prepared"]))
    return nodes


def _one_by_one(
    graph: onnx.GraphProto, given: str, taken: str, batch: int, spec: ForeignSpec
) -> onnx.NodeProto:
    """A loop from `prepared` to `given`; each image fills the whole batch of the network inside."""
    shape = spec.input.shape
    body = helper.make_graph(
        [
            helper.make_node("Expand", ["one", "filled"], [given]),
            *graph.node,
            helper.make_node("Gather", [taken, "first"], ["row"], axis=0),
        ],
        "one_image",
        [helper.make_tensor_value_info("one", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, None)],
        [
            *graph.initializer,
            numpy_helper.from_array(np.array([batch, *shape]), "filled"),
            numpy_helper.from_array(np.array(0), "first"),
        ],
    )
    return helper.make_node("Scan", ["prepared"], ["given"], body=body, num_scan_inputs=1)


def _finish(spec: ForeignSpec, constants: dict[str, NDArray[Any]], opset: int) -> list[onnx.NodeProto]:
    """Nodes from `given` to `scores`: a softmax of float32 can give 1.0000001, which is no probability."""
    constants["kept"] = np.array(spec.output.kept)
    nodes, given = [], "given"
    if spec.output.kind == "softmax":
        nodes, given = [helper.make_node("Softmax", ["given"], ["shares"], axis=1)], "shares"
    nodes.append(helper.make_node("Gather", [given, "kept"], ["chosen"], axis=1))
    if spec.output.kind == "logits":
        return [*nodes, helper.make_node("Sigmoid", ["chosen"], [OUTPUT_NAME])]
    if opset < CLIP_BY_INPUTS:
        return [*nodes, helper.make_node("Clip", ["chosen"], [OUTPUT_NAME], min=0.0, max=1.0)]
    constants |= {"low": np.array(0, np.float32), "high": np.array(1, np.float32)}
    return [*nodes, helper.make_node("Clip", ["chosen", "low", "high"], [OUTPUT_NAME])]


def in_front(network: onnx.ModelProto, spec: ForeignSpec) -> onnx.ModelProto:
    """The network up to the sigmoid or softmax that gives its output, which keeps its name; or as it is."""
    front = onnx.ModelProto()
    front.CopyFrom(network)
    last = last_node(front, spec.output.name)
    if last is None or last.op_type not in ("Sigmoid", "Softmax"):
        return network
    last.CopyFrom(helper.make_node("Identity", last.input, last.output))
    return front


def _run_alone(
    network: onnx.ModelProto, spec: ForeignSpec, images: NDArray[np.uint8], foreign: Path
) -> NDArray[np.float64]:
    """What the network gives as it came, all of it, an image at a time, with numpy doing what `wrap` adds.

    Raises:
        ModelError: onnxruntime cannot run it, it gives another shape than the spec says, or no numbers.
    """
    batch = batch_of(network, spec)
    rows = []
    try:
        session, _ = open_session(network.SerializeToString(), "cpu")
        for image in images:
            pixels = spec.input.black + image / 255 * (spec.input.white - spec.input.black)
            prepared = ((pixels - spec.input.mean) / spec.input.std) * np.ones(spec.input.channels)
            if spec.input.layout == "NCHW":
                prepared = prepared.transpose(2, 0, 1)
            filled = np.stack([prepared.astype(np.float32)] * (batch or 1))
            rows.append(session.run([spec.output.name], {spec.input.name: filled})[0][0])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ModelError(f"{foreign}: onnxruntime cannot run it: {first_line(error)}") from error
    if {row.shape for row in rows} != {(len(spec.output.labels),)}:
        raise ModelError(
            f"{foreign} gives {rows[0].shape} for an image, the spec has {len(spec.output.labels)} labels."
        )
    values = np.stack(rows).astype(np.float64)
    if not np.isfinite(values).all():
        raise ModelError(f"{foreign} gives no numbers (NaN or infinity) for drawn images.")
    return values


def _scores(given: NDArray[np.float64], spec: ForeignSpec) -> NDArray[np.float64]:
    """What the wrapped network has to give [S, L]."""
    if spec.output.kind == "softmax":
        powers = np.exp(given - given.max(axis=1, keepdims=True))
        given = powers / powers.sum(axis=1, keepdims=True)
    chosen: NDArray[np.float64] = given[:, spec.output.kept]
    return sigmoid(chosen) if spec.output.kind == "logits" else chosen


def _as_logits(spec: ForeignSpec) -> ForeignSpec:
    """The same for a network that gives logits, to compare these."""
    return spec.model_copy(update={"output": spec.output.model_copy(update={"kind": "logits"})})


def _check_kind(
    values: NDArray[np.float64], network: onnx.ModelProto, spec: ForeignSpec, foreign: Path, file: Path
) -> None:
    """Raises a ModelError if what the network gives is not of the kind that its spec says."""
    low, high = values.min(), values.max()
    said, found = spec.output.kind, kind_of(network, spec.output.name)
    if said == "probabilities" and (found == "logits" or low < -ROUNDING or high > 1 + ROUNDING):
        advice = 'kind = "logits" puts a sigmoid behind them, "softmax" a softmax'
        if found is None and low >= 0:
            advice = "end it in what it was trained to end in, and export it again"
        raise ModelError(
            f"{foreign} gives values from {low:.3g} to {high:.3g}, and nothing keeps them in 0..1: no "
            f"probabilities, as {file} has it; {advice}."
        )
    last = last_node(network, spec.output.name)
    ends = "" if last is None else last.op_type
    if said == "logits" and (ends == "LogSoftmax" or (ends == "Log" and high <= ROUNDING)):
        raise ModelError(
            f"{foreign} ends in a {ends}, whose values do not pass 0: no logits for a sigmoid, as "
            f'{file} has it; kind = "softmax" makes probabilities of those of a softmax.'
        )
    if said != "probabilities" and found == "probabilities":
        raise ModelError(
            f"{foreign} ends in a sigmoid or softmax, so it gives no logits, as {file} has it; with "
            f'kind = "probabilities" no second one is put behind it.'
        )
    if said != "probabilities" and found is None and low >= -ROUNDING and high <= 1 + ROUNDING:
        raise ModelError(
            f"{foreign} gives values from {low:.3g} to {high:.3g}, as probabilities are, and nothing in it "
            f'tells that they are none, as {file} has it; if they are, kind = "probabilities" adds nothing, '
            "else end it in what it was trained to end in, and export it again."
        )


def _with_provenance(spec: ModelSpec, network: onnx.ModelProto, foreign: Path, proof: Proof) -> ModelSpec:
    facts = {
        "adopted_from": visible(foreign.name),
        "sha256_there": hashlib.sha256(foreign.read_bytes()).hexdigest(),
        "made_by": f"{network.producer_name} {network.producer_version}".strip() or "not stated",
        "opset": str(opset_of(network)),
        "compared_on": proof.what,
        "difference_to_original": f"{proof.difference:.1e}",
    }
    return replace(spec, provenance=facts)
