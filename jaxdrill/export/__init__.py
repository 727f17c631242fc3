"""Trained networks for other runtimes."""

from collections.abc import Callable
from pathlib import Path

from jaxdrill import weights
from jaxdrill.errors import RunError

FORMATS = {  # and how their files end
    "stablehlo": ".stablehlo",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "pytorch": "_pytorch.safetensors",
}


def export(
    run: Path, to: str, seed: int | None = None, out: Path | None = None, fold: bool = True
) -> Path:
    """Writes the network of a run's seed, its first if None, in a format of FORMATS, and returns the file's path.

    Raises:
        RunError: the weights cannot be read, or a package that the format needs is missing.
    """
    from jaxdrill.weights import trained

    file = weights.find(run, seed)
    network = trained.read(file, fold)
    where = run if run.is_dir() else file.resolve().parent.parent
    out = out or Path(f"{where.resolve().name}_{file.stem}{FORMATS[to]}")
    try:
        _writer(to)(out, network)
    except ModuleNotFoundError as error:
        raise RunError(
            f"--to {to} needs the package {error.name}: pip install 'jaxdrill[export]'"
        ) from error
    return out


def _writer(to: str) -> Callable[..., None]:
    """What writes a format; it is imported only here, as it may need a package of its own."""
    if to == "stablehlo":
        from jaxdrill.export.stablehlo import write
    elif to == "onnx":
        from jaxdrill.export.onnx import write
    elif to == "safetensors":
        from jaxdrill.export.safetensors import write
    else:
        from jaxdrill.export.safetensors import write_pytorch as write
    return write
