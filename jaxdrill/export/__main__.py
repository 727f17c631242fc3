"""The command `python -m jaxdrill.export RUN --to FORMAT`: a trained network for other runtimes."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, exit_code, say
from jaxdrill.export import FORMATS, export

ABOUT = """\
Write a trained network as a file for another runtime.
The formats are ONNX, StableHLO and safetensors.

examples:
  jaxdrill export runs/step_5 --to onnx
  jaxdrill export runs/step_5 --to pytorch --seed 2
  jaxdrill export runs/step_5 --to safetensors --batch-norm kept"""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file, prints its path, and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: run(list(sys.argv[1:] if argv is None else argv)))


def parser() -> Parser:
    """Return the parser of the command."""
    made = Parser(prog="jaxdrill export", description=ABOUT)
    made.add_argument(
        "run", type=Path, metavar="RUN", help="run folder, or a .safetensors file in its weights/"
    )
    made.add_argument(
        "--to", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS)
    )
    made.add_argument(
        "--seed", type=int, metavar="N", help="which seed of the run (default: its first)"
    )
    made.add_argument(
        "--out", type=Path, metavar="FILE", help="(default: such as step_5_seed_1.onnx, here)"
    )
    made.add_argument(
        "--batch-norm",
        choices=("folded", "kept"),
        default="folded",
        help="folded into a factor and an addend, or kept (default: folded)",
    )
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments)
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
