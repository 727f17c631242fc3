"""Run the command `jaxdrill export`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, exit_code, say
from jaxdrill.export import FORMATS, export

ABOUT = """\
Export a trained network as a program (stablehlo, onnx), or as weights with the names of jaxdrill
(safetensors) or PyTorch (pytorch). Programs map images uint8[N, 28, 28] to logits float32[N, 10].

examples:
  jaxdrill export runs/step_5 --to onnx
  jaxdrill export runs/step_5 --to pytorch --seed 2 --out digits.safetensors
  jaxdrill export runs/step_5/weights/seed_1.safetensors --to safetensors --batch-norm kept"""


def parser() -> Parser:
    """Return the parser of the command's arguments."""
    made = Parser("jaxdrill export", ABOUT)
    about = "run folder, or one weights file such as RUN/weights/seed_1.safetensors"
    made.add_argument("run", type=Path, metavar="RUN", help=about)
    made.add_argument(
        "--to", required=True, choices=FORMATS, metavar="TEXT", help=", ".join(FORMATS)
    )
    made.add_argument("--seed", type=int, metavar="INT", help="seed (default: the first seed)")
    out = "file to write (default: RUN_seed_N.onnx and so on, in the current folder)"
    made.add_argument("--out", type=Path, metavar="FILE", help=out)
    made.add_argument(
        "--batch-norm",
        choices=("folded", "kept"),
        default="folded",
        metavar="TEXT",
        help="folded into a scale and a shift, or kept (default: folded)",
    )
    return made


def run(arguments: list[str]) -> None:
    """Export a network and print the path of the file."""
    options = parser().parse_args(arguments)
    fold = options.batch_norm == "folded"
    file = export(options.run, options.to, options.seed, options.out, fold)
    if file.is_file():  # After writing to a pipe or a device, stdout may be the output itself.
        say(f"{file}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return exit_code(run, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # The export computes nothing large.
    sys.exit(main())
