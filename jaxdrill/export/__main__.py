"""The command `python -m jaxdrill.export RUN --to FORMAT`: a trained network for other runtimes."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, exit_code, say
from jaxdrill.export import FORMATS, export


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file, prints its path, and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: _command(list(sys.argv[1:] if argv is None else argv)))


def _command(arguments: list[str]) -> None:
    parser = Parser(prog="python -m jaxdrill.export", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder, or a .safetensors file in its weights/"
    )
    parser.add_argument(
        "--to", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS)
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="which seed of the run (default: its first)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="(default: such as step_5_seed_1.onnx, here)"
    )
    parser.add_argument(
        "--batch-norm",
        choices=("folded", "kept"),
        default="folded",
        help="folded into a factor and an addend, or kept (default: folded)",
    )
    options = parser.parse_args(arguments)
    file = export(
        options.run, options.to, options.seed, options.out, options.batch_norm == "folded"
    )
    if file.is_file():  # else it went into a device or a pipe, perhaps into stdout
        say(f"{file}")


if __name__ == "__main__":
    os.environ.setdefault(
        "JAX_PLATFORMS", "cpu"
    )  # nothing is computed that an accelerator would be needed for
    sys.exit(main())
