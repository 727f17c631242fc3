"""ONNX files, from images uint8[N, 28, 28], 0..255, to logits float32[N, 10]."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxdrill.files import write_bytes
from jaxdrill.nn.functional import EPSILON
from jaxdrill.nn.network import MEAN, STANDARD_DEVIATION
from jaxdrill.weights.pytorch import to_pytorch
from jaxdrill.weights.trained import Trained

OPSET, IR_VERSION = 17, 8  # of 2022, so that every runtime of today reads them


class Graph:
    """Operations one after another, each on the value of the last."""

    def __init__(self, value: str) -> None:
        self.value, self.nodes, self.constants = value, [], []

    def add(self, operation: str, *constants: np.ndarray, **attributes: Any) -> None:
        """The value becomes the result of an operation on it and constants."""
        names = [f"{operation}_{len(self.nodes)}_{number}" for number, _ in enumerate(constants)]
        self.constants += [
            numpy_helper.from_array(np.ascontiguousarray(a), name)
            for a, name in zip(constants, names, strict=True)
        ]
        result = f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, [self.value, *names], [result], **attributes))
        self.value = result


def write(file: Path, trained: Trained) -> None:
    """Writes the file, checked by ONNX's own checker."""
    graph, weights = Graph("images"), to_pytorch(trained.weights)
    graph.add("Cast", to=TensorProto.FLOAT)
    for operation, number in (("Div", 255), ("Sub", MEAN), ("Div", STANDARD_DEVIATION)):
        graph.add(operation, np.array(number, np.float32))
    graph.add("Reshape", np.array([-1, 1, 28, 28]))
    for layer in trained.layers:
        name = layer["name"]
        own = {
            key.removeprefix(f"{name}."): a
            for key, a in weights.items()
            if key.startswith(f"{name}.")
        }
        _conv(graph, layer, own) if "conv" in layer else _pool(graph, layer)
    graph.add("Reshape", np.array([-1, 10]))
    graph.nodes[-1].output[0] = "logits"
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 28, 28])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    whole = helper.make_graph(graph.nodes, trained.config.name, [images], [logits], graph.constants)
    model = helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(model, trained.metadata)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(file, model.SerializeToString())


def _conv(graph: Graph, layer: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """A convolution with its own arrays, in PyTorch's names and layout."""
    pads = [layer["padding"]] * 4
    if layer["separable"]:
        graph.add("Conv", arrays["weight"])
        graph.add("Conv", arrays["depthwise.weight"], pads=pads, group=layer["conv"])
    else:
        graph.add("Conv", arrays["weight"], pads=pads)
    if layer["relu"]:
        graph.add("Relu")
    if "scale" in arrays:
        graph.add("Mul", arrays["scale"].reshape(-1, 1, 1))
        graph.add("Add", arrays["shift"].reshape(-1, 1, 1))
    elif layer["batch_norm"]:
        names = ("weight", "bias", "running_mean", "running_var")
        graph.add(
            "BatchNormalization", *(arrays[f"batch_norm.{name}"] for name in names), epsilon=EPSILON
        )


def _pool(graph: Graph, layer: dict[str, Any]) -> None:
    size = [layer["size"]] * 2
    graph.add(
        {"max": "MaxPool", "average": "AveragePool"}[layer["pool"]], kernel_shape=size, strides=size
    )
