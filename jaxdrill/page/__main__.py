"""Run the command `jaxdrill page`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, UsageError, exit_code, say
from jaxdrill.files import write_text

ABOUT = """\
Write an HTML page on which a user draws a digit and trained networks predict it.
The page works offline, in any browser.

examples:
  jaxdrill page runs/step_5
  jaxdrill page runs --out digits.html
  jaxdrill page runs/step_5 runs/step_6 --seeds 1"""


def parser() -> Parser:
    """Return the parser of the command's arguments."""
    made = Parser("jaxdrill page", ABOUT)
    runs = "run folder, or a folder of run folders"
    made.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=runs)
    out = "file to write (default: %(default)s)"
    made.add_argument("--out", type=Path, default=Path("page.html"), metavar="FILE", help=out)
    seeds = "maximum number of seeds per run; later seeds are left out if the page would exceed "
    seeds += "about 400 kB (default: 5)"
    made.add_argument("--seeds", type=int, metavar="INT", help=seeds)
    return made


def run(arguments: list[str]) -> None:
    """Write the page and print its path and size.

    Raises:
        RunError: a run cannot be read.
        UsageError: `--seeds` is less than 1.
    """
    options = parser().parse_args(arguments)
    if options.seeds is not None and options.seeds < 1:
        raise UsageError(f"--seeds is {options.seeds}; allowed: an integer of at least 1")
    from jaxdrill import page
    from jaxdrill.runs.reader import read_each

    text = page.build(read_each(options.runs), options.seeds or page.MAX_SEEDS)
    if write_text(options.out, text):
        size = options.out.stat().st_size / 1000
        say(f"{options.out}: {size:.0f} kB. Open it in a browser.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return exit_code(run, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # The command computes nothing large.
    sys.exit(main())
