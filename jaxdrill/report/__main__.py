"""Run the command `jaxdrill report`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, exit_code, say
from jaxdrill.report import write_report

ABOUT = """\
Write report.html and report.md of finished runs: tables, plots, pictures and statistics.
Several runs are compared, and the report says which steps helped.

examples:
  jaxdrill report                           # all runs in the folder runs
  jaxdrill report runs/step_4 runs/step_5   # two runs
  jaxdrill report runs --detect 0.05        # also: how many seeds detect 0.05 percentage points"""


def parser() -> Parser:
    """Return the parser of the command's arguments."""
    made = Parser("jaxdrill report", ABOUT)
    runs = "run folder, or a folder that contains run folders (default: runs)"
    made.add_argument(
        "runs", nargs="*", type=Path, default=[Path("runs")], metavar="RUN", help=runs
    )
    detect = "add the number of seeds needed to detect a difference of FLOAT percentage points"
    made.add_argument("--detect", type=_points, metavar="FLOAT", help=detect)
    out = "folder of the report (default: RUN, or the folder that contains all RUNs)"
    made.add_argument("--out", type=Path, metavar="FOLDER", help=out)
    return made


def run(arguments: list[str]) -> None:
    """Write the report and print its path.

    Raises:
        UsageError: the arguments are invalid.
        RunError: a run cannot be read.
    """
    options = parser().parse_args(arguments)
    page = write_report(options.runs, options.out, options.detect)
    say(f"{page} and {page.with_suffix('.md')}")


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return exit_code(run, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # A few augmented images need no accelerator.
    sys.exit(main())
