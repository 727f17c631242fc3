"""The command `python -m jaxdrill.report RUN...`: writes `report.html` and `report.md` of run folders."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, exit_code, say
from jaxdrill.report import write_report

ABOUT = """\
Write report.html and report.md of one run, or of several runs that are compared.
The report says which changes helped.

examples:
  jaxdrill report
  jaxdrill report runs/step_4 runs/step_5
  jaxdrill report runs --detect 0.05"""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: run(list(sys.argv[1:] if argv is None else argv)))


def parser() -> Parser:
    """Return the parser of the command."""
    made = Parser(prog="jaxdrill report", description=ABOUT)
    made.add_argument(
        "runs",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        metavar="RUN",
        help="run folder, or a folder of run folders (default: runs)",
    )
    made.add_argument(
        "--detect",
        type=_points,
        metavar="X",
        help="print the number of seeds that detects a difference of X percentage points",
    )
    made.add_argument(
        "--out",
        type=Path,
        help="folder of the report (default: RUN; of several, the one they are in)",
    )
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    chosen = parser().parse_args(arguments)
    page = write_report(chosen.runs, chosen.out, chosen.detect)
    say(f"{page} and {page.with_suffix('.md')}")


def _points(text: str) -> float:
    """Parse a difference in percentage points."""
    try:
        if 0 < (value := float(text)) <= 100:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text} is not a number of percentage points above 0 and up to 100"
    )


if __name__ == "__main__":
    os.environ.setdefault(
        "JAX_PLATFORMS", "cpu"
    )  # a few rotations: no accelerator need be taken for them
    sys.exit(main())
