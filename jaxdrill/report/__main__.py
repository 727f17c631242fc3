"""The command `jaxdrill report`, or `python -m jaxdrill.report`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, exit_code, say
from jaxdrill.report import write_report

DESCRIPTION = """\
Write report.html and report.md of finished runs: tables, plots, pictures and statistics.
Several runs are compared, and the report says which steps helped.

examples:
  jaxdrill report                           # all runs in the folder runs
  jaxdrill report runs/step_4 runs/step_5   # two runs
  jaxdrill report runs --detect 0.05        # also: how many seeds detect 0.05 points?
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write a report and return the exit code, see `errors.exit_code`."""
    return exit_code(lambda: run(list(sys.argv[1:] if argv is None else argv)))


def run(arguments: list[str]) -> None:
    """Write a report.

    Raises:
        UsageError: the arguments are wrong.
        RunError: a run cannot be read.
    """
    if "jax" not in sys.modules:  # The report augments a few images: it needs no accelerator.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    options = parser().parse_args(arguments)
    page = write_report(options.runs, options.out, options.detect)
    say(f"{page} and {page.with_suffix('.md')}")


def parser() -> Parser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog="jaxdrill report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        metavar="RUN",
        help="run folder, or a folder that contains run folders (default: runs)",
    )
    parser.add_argument(
        "--detect",
        type=_points,
        metavar="FLOAT",
        help="print the number of seeds that detects a difference of FLOAT percentage points",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder of the report (default: RUN, or the folder that contains all RUNs)",
    )
    return parser


def _points(text: str) -> float:
    """Parse a difference in percentage points."""
    try:
        if 0 < (value := float(text)) <= 100:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text} is not a number above 0 and up to 100 (percentage points)"
    )


if __name__ == "__main__":
    sys.exit(main())
