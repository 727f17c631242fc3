"""Write ONNX models from images uint8[N, 28, 28], 0..255, to logits float32[N, 10]."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jaxdrill.files import write_bytes
from jaxdrill.nn.functional import EPSILON
from jaxdrill.nn.network import MEAN, STANDARD_DEVIATION
from jaxdrill.weights import TrainedNetwork
from jaxdrill.weights.convert import BATCH_NORM, to_pytorch

OPSET, IR_VERSION = 17, 8  # of 2022, for older runtimes
POOLS = {"max": "MaxPool", "average": "AveragePool"}


class Graph:
    """A chain of operations. Each takes the result of the operation before it and constants."""

    def __init__(self, value: str) -> None:
        self.value, self.nodes, self.constants = value, [], []

    def add(self, operation: str, *constants: np.ndarray, **attributes: Any) -> None:
        """Append an operation."""
        result, inputs = f"{operation}_{len(self.nodes)}", [self.value]
        for number, array in enumerate(constants):
            inputs.append(f"{result}_{number}")
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), inputs[-1]))
        self.nodes.append(helper.make_node(operation, inputs, [result], **attributes))
        self.value = result


def write(file: Path, network: TrainedNetwork, fold: bool) -> None:
    """Write a model, after ONNX's own checker has checked it."""
    graph, weights = Graph("images"), to_pytorch(network.arrays(fold))
    graph.add("Cast", to=TensorProto.FLOAT)
    for operation, number in (("Div", 255), ("Sub", MEAN), ("Div", STANDARD_DEVIATION)):
        graph.add(operation, np.array(number, np.float32))
    graph.add("Reshape", np.array([-1, 1, 28, 28]))
    for layer in network.layers:
        prefix = f"{layer['name']}."
        arrays = {n.removeprefix(prefix): a for n, a in weights.items() if n.startswith(prefix)}
        if "conv" in layer:
            _add_convolution(graph, layer, arrays)
        else:
            size = [layer["size"]] * 2
            graph.add(POOLS[layer["pool"]], kernel_shape=size, strides=size)
    graph.add("Reshape", np.array([-1, 10]))
    graph.nodes[-1].output[0] = "logits"
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 28, 28])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    model = helper.make_model(
        helper.make_graph(graph.nodes, network.config.name, [images], [logits], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, network.metadata)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(file, model.SerializeToString())


def _add_convolution(graph: Graph, layer: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Append a convolution. `arrays` are the layer's arrays with PyTorch's names and layout."""
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
        norm = [arrays[f"batch_norm.{name}"] for name in BATCH_NORM.values()]
        graph.add("BatchNormalization", *norm, epsilon=EPSILON)
