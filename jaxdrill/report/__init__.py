"""The report: statistics, tables and plots of finished runs as report.html and report.md. Reads run folders only."""

from collections.abc import Sequence
from pathlib import Path

from jaxdrill.errors import RunError, UsageError, print_error
from jaxdrill.files import write_text


def write_report(
    paths: Sequence[Path], out: Path | None = None, detect: float | None = None
) -> Path:
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
        raise RunError(
            "there is no folder runs here; train first (python -m jaxdrill.main), or name a run folder"
        )
    from jaxdrill.report import page, prose
    from jaxdrill.report.analysis import group_runs
    from jaxdrill.runs.reader import read_all

    runs = read_all(paths)
    for analyses in group_runs(runs):
        for caveat in prose.caveats([analysis.run for analysis in analyses]):
            print_error(caveat)
    html, markdown = page.render(runs, detect)
    write_text(out / "report.md", markdown)
    write_text(out / "report.html", html)
    return out / "report.html"
