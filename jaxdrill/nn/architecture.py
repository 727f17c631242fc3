"""The network from arithmetic alone: shapes, receptive fields, parameters, memory. No JAX."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jaxdrill.errors import UsageError
from jaxdrill.nn.layers import Flow, Layer

SIDE, CLASSES = 28, 10


@dataclass(frozen=True)
class Row:
    """One line of the layer table."""

    name: str  # as in the weights: conv1, pool1
    layer: str
    side: int  # of the output, pixels
    channels: int
    receptive_field: int  # side, pixels of the input
    parameters: int
    operations: int  # multiply-adds of one image


def layer_names(network: Sequence[Layer]) -> list[str]:
    """conv1, conv2, pool1 and so on, each kind counted from 1."""
    counts: Counter[str] = Counter()
    names = []
    for layer in network:
        counts[layer.kind] += 1
        names.append(f"{layer.kind}{counts[layer.kind]}")
    return names


def trace(network: Sequence[Layer]) -> list[Flow]:
    """What flows into the network, and out of each layer.

    Raises:
        UsageError: a layer does not fit its input, or the end is not 1x1x10.
    """
    flows = [Flow(SIDE, 1)]
    for number, layer in enumerate(network, start=1):
        try:
            flows.append(layer.trace(flows[-1]))
        except UsageError as error:
            raise UsageError(f"network[{number}] {error}") from error
    end = flows[-1]
    if (end.side, end.channels) != (1, CLASSES):
        raise UsageError(
            f"the network ends in {end.side}x{end.side}x{end.channels}; it must end in 1x1x{CLASSES}, one value a class"
        )
    return flows


def layer_table(network: Sequence[Layer]) -> list[Row]:
    """The network layer by layer; raises as `trace`."""
    flows = trace(network)
    return [
        Row(name, layer.text(), after.side, after.channels, after.receptive_field,
            after.parameters - before.parameters, after.operations - before.operations)
        for name, layer, before, after in zip(layer_names(network), network, flows, flows[1:], strict=False)
    ]  # fmt: skip


def count_parameters(network: Sequence[Layer]) -> int:
    """All trained values, batch norm's scale and bias included."""
    return trace(network)[-1].parameters
