"""The command `python -m jaxdrill.report RUN...`: writes `report.html` and `report.md` of run folders."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import Parser, RunError, UsageError, exit_code, print_error, say
from jaxdrill.files import write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and returns the exit code, as `errors.exit_code` says."""
    return exit_code(lambda: _command(list(sys.argv[1:] if argv is None else argv)))


def _command(arguments: list[str]) -> None:
    about = "Writes report.html and report.md of one run, or of several that are compared."
    parser = Parser(prog="python -m jaxdrill.report", description=about, allow_abbrev=False)
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], metavar="RUN",
                        help="run folder, or a folder of run folders (default: runs)")  # fmt: skip
    parser.add_argument("--detect", type=_points, metavar="X",
                        help="print the number of seeds that detects a difference of X percentage points")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the report (default: RUN; of several, the one they are in)")
    chosen = parser.parse_args(arguments)
    page = write_report(chosen.runs, chosen.out, chosen.detect)
    say(f"{page} and {page.with_suffix('.md')}")


def _points(text: str) -> float:
    """Parse a difference in percentage points."""
    try:
        if 0 < (value := float(text)) <= 100:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not a number of percentage points above 0 and up to 100")


def write_report(paths: Sequence[Path], out: Path | None = None, detect: float | None = None) -> Path:
    """Write the report of run folders, or of folders of run folders.

    Args:
        paths: run folders; a folder of run folders stands for those in it.
        out: folder of the report; if None, the only path, or the folder that holds all of them.
        detect: difference in percentage points for which the report says how many seeds detect it.

    Returns:
        The path of `report.html`; `report.md` is beside it.

    Raises:
        UsageError: the paths are in different folders, and there is no `out`.
        RunError: a run cannot be read.
    """
    parents = {folder.resolve().parent for folder in paths}
    if not out and len(paths) > 1 and len(parents) > 1:
        raise UsageError("the runs are in different folders; say with --out where the report goes")
    out = out or (paths[0] if len(paths) == 1 else parents.pop())
    if list(paths) == [Path("runs")] and not paths[0].is_dir():
        raise RunError("there is no folder runs here; train first (python -m jaxdrill.main), or name a run folder")
    from jaxdrill.evidence import page, prose
    from jaxdrill.evidence.analysis import group_runs
    from jaxdrill.runs.reader import read_all

    runs = read_all(paths)
    for analyses in group_runs(runs):
        for caveat in prose.caveats([analysis.run for analysis in analyses]):
            print_error(caveat)
    html, markdown = page.render(runs, detect)
    write_text(out / "report.md", markdown)
    write_text(out / "report.html", html)
    return out / "report.html"


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a few rotations: no accelerator need be taken for them
    sys.exit(main())
