"""Export trained networks for other runtimes.

To add a format, write a function like the ones below, or a module like `onnx.py`, and add it to
`FORMATS`.
"""

from pathlib import Path

from jaxdrill import array_files, weights
from jaxdrill.errors import RunError
from jaxdrill.files import write_bytes
from jaxdrill.weights import TrainedNetwork

PLATFORMS = ("cpu", "cuda", "tpu")  # of StableHLO programs


def export(
    run: Path, to: str, seed: int | None = None, out: Path | None = None, fold: bool = True
) -> Path:
    """Export a trained network.

    Args:
        run: a run folder, or a weights file in its folder `weights`.
        to: a format in `FORMATS`.
        seed: a seed in the run folder; the first seed if None.
        out: the file to write; `RUN_seed_N` with the suffix of the format, in the current folder,
            if None.
        fold: replace each batch norm by a scale and a shift. StableHLO programs always contain the
            batch norms, because compilers fold constants.

    Returns:
        The path of the written file.

    Raises:
        RunError: the weights cannot be read, or a package that the format needs is not installed.
    """
    suffix, write = FORMATS[to]
    file = weights.find(run, seed)
    folder = run if run.is_dir() else file.resolve().parent.parent
    out = out or Path(f"{folder.resolve().name}_{file.stem}{suffix}")
    network = weights.read_weights(file)
    try:
        write(out, network, fold)
    except ModuleNotFoundError as error:
        missing = f"--to {to} needs the package {error.name}"
        raise RunError(f"{missing}. Install it: pip install 'jaxdrill[export]'") from error
    return out


def write_stablehlo(file: Path, network: TrainedNetwork, fold: bool) -> None:
    """Write a program from images uint8[N, 28, 28] to logits float32[N, 10].

    JAX runs the program without jaxdrill, for any N, on each of PLATFORMS (`jax.export`). The
    weights are constants.
    """
    import flatbuffers  # noqa: F401 - jax.export needs flatbuffers, and JAX does not install it.
    import jax
    from jax import export

    from jaxdrill.nn.network import from_named_weights, make_graph
    from jaxdrill.training import devices
    from jaxdrill.weights import inference

    with devices.single_precision():
        graph, variables = make_graph(network.config.network), from_named_weights(network.weights)
        logits = jax.jit(lambda images: inference.apply(graph, *variables, images))
        images = jax.ShapeDtypeStruct(export.symbolic_shape("n, 28, 28"), "uint8")
        program = export.export(logits, platforms=PLATFORMS)(images)
    write_bytes(file, bytes(program.serialize()))


def write_onnx(file: Path, network: TrainedNetwork, fold: bool) -> None:
    """Write an ONNX model from images uint8[N, 28, 28] to logits float32[N, 10]."""
    from jaxdrill.export import onnx

    onnx.write(file, network, fold)


def write_safetensors(file: Path, network: TrainedNetwork, fold: bool) -> None:
    """Write the arrays with jaxdrill's names and layout: kernels are [K, K, I, O]."""
    array_files.write(file, network.arrays(fold), network.metadata)


def write_pytorch(file: Path, network: TrainedNetwork, fold: bool) -> None:
    """Write the arrays with PyTorch's names and layout: weights are [O, I, K, K]."""
    from jaxdrill.weights.convert import to_pytorch

    array_files.write(file, to_pytorch(network.arrays(fold)), network.metadata)


FORMATS = {  # the end of a file's name, and the function that writes the file
    "stablehlo": (".stablehlo", write_stablehlo),
    "onnx": (".onnx", write_onnx),
    "safetensors": (".safetensors", write_safetensors),
    "pytorch": ("_pytorch.safetensors", write_pytorch),
}
