"""The command `python -m jaxdrill.page RUN...`: a page to draw a digit on, answered by trained networks."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, UsageError, exit_code, say
from jaxdrill.files import write_text

ABOUT = """\
Write an HTML page on which trained networks classify a drawn digit.
The page works without a network connection.

examples:
  jaxdrill page runs
  jaxdrill page runs/step_4 runs/step_5
  jaxdrill page runs --seeds 3 --out digits.html"""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page, prints its path and size, and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: run(list(sys.argv[1:] if argv is None else argv)))


def parser() -> Parser:
    """Return the parser of the command."""
    made = Parser(prog="jaxdrill page", description=ABOUT)
    made.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folder, or a folder of run folders"
    )
    made.add_argument(
        "--out", type=Path, default=Path("page.html"), metavar="FILE", help="(default: %(default)s)"
    )
    made.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="at most, of each run (default: as many as fit, up to 5)",
    )
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments)
    if options.seeds is not None and options.seeds < 1:
        raise UsageError(f"--seeds is {options.seeds}; allowed: a whole number of at least 1")
    from jaxdrill import page
    from jaxdrill.runs.reader import read_each

    text = page.build(read_each(options.runs), options.seeds or page.MOST_SEEDS)
    if write_text(options.out, text):
        say(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB; open it in a browser")


if __name__ == "__main__":
    os.environ.setdefault(
        "JAX_PLATFORMS", "cpu"
    )  # nothing is computed that an accelerator would be needed for
    sys.exit(main())
