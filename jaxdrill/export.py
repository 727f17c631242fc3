"""The command `python -m jaxdrill.export RUN --to FORMAT`: a trained network for other runtimes."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxdrill.errors import Parser, RunError, exit_code, say
from jaxdrill.runs import weights

FORMATS = {  # and how their files end
    "stablehlo": ".stablehlo",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "pytorch": "_pytorch.safetensors",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file, prints its path, and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: _command(list(sys.argv[1:] if argv is None else argv)))


def _command(arguments: list[str]) -> None:
    parser = Parser(prog="python -m jaxdrill.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a .safetensors file in its weights/")
    parser.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--seed", type=int, metavar="N", help="which seed of the run (default: its first)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: such as step_5_seed_1.onnx, here)")
    parser.add_argument("--batch-norm", choices=("folded", "kept"), default="folded",
                        help="folded into a factor and an addend, or kept (default: folded)")  # fmt: skip
    options = parser.parse_args(arguments)
    file = export(options.run, options.to, options.seed, options.out, options.batch_norm == "folded")
    if file.is_file():  # else it went into a device or a pipe, perhaps into stdout
        say(f"{file}")


def export(run: Path, to: str, seed: int | None = None, out: Path | None = None, fold: bool = True) -> Path:
    """Writes the network of a run's seed, its first if None, in a format of FORMATS, and returns the file's path.

    Raises:
        RunError: the weights cannot be read, or a package that the format needs is missing.
    """
    from jaxdrill.deploy import trained

    file = weights.find(run, seed)
    network = trained.read(file, fold)
    where = run if run.is_dir() else file.resolve().parent.parent
    out = out or Path(f"{where.resolve().name}_{file.stem}{FORMATS[to]}")
    try:
        _writer(to)(out, network)
    except ModuleNotFoundError as error:
        raise RunError(f"--to {to} needs the package {error.name}: pip install 'jaxdrill[export]'") from error
    return out


def _writer(to: str) -> Callable[..., None]:
    """What writes a format; it is imported only here, as it may need a package of its own."""
    if to == "stablehlo":
        from jaxdrill.deploy.stablehlo import write
    elif to == "onnx":
        from jaxdrill.deploy.onnx import write
    elif to == "safetensors":
        from jaxdrill.deploy.safetensors import write
    else:
        from jaxdrill.deploy.safetensors import write_pytorch as write
    return write


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed that an accelerator would be needed for
    sys.exit(main())
