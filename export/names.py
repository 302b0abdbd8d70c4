"""Names inside a graph by its layers alone, so that the same network is the same file, byte for byte."""

import re
from collections import Counter

import onnx

__all__ = ["rename"]

NUMBER = re.compile(r"__\d+$")
"""What tf2onnx puts behind names; it counts in the order of a set, another one each time."""


def rename(model: onnx.ModelProto) -> onnx.ModelProto:
    """Names nodes without tf2onnx's numbers, values by the node they come from, weights by their first use.

    Args:
        model: a graph without subgraphs, its nodes in order; changed and returned. Its inputs and outputs
            keep their names.
    """
    graph = model.graph
    names = {item.name: item.name for item in (*graph.input, *graph.output)}
    weights = {item.name: item for item in graph.initializer}
    found: Counter[str] = Counter()
    for node in graph.node:
        stem = NUMBER.sub("", node.name)
        found[stem] += 1
        node.name = stem if found[stem] == 1 else f"{stem}/{found[stem]}"
        for place, value in enumerate(node.input):
            if value in weights:
                names.setdefault(value, f"{node.name}/input/{place}")
        for place, value in enumerate(node.output):
            names.setdefault(value, f"{node.name}/output/{place}")
        node.input[:] = [value and names[value] for value in node.input]
        node.output[:] = [value and names[value] for value in node.output]
    ordered = [weights[value] for value in names if value in weights]
    for item in ordered:
        item.name = names[item.name]
    del graph.initializer[:]
    graph.initializer.extend(ordered)
    del graph.value_info[:]
    return model
