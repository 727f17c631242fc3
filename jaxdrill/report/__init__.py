"""Write the report of finished runs: statistics, tables and plots as report.html and report.md.

The report reads run folders only. This module imports JAX, Matplotlib and SciPy inside functions,
because training imports it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdrill.errors import UsageError, print_error
from jaxdrill.files import write_text

if TYPE_CHECKING:
    from jaxdrill.runs.reader import FinishedRun


def write_report(
    paths: Sequence[Path], out: Path | None = None, detect: float | None = None
) -> Path:
    """Write the report of run folders, or of folders that contain run folders.

    Args:
        paths: run folders; a folder of run folders stands for the run folders in it.
        out: folder of the report; if None, the only path, or the folder that contains all paths.
        detect: difference in percentage points. The report says how many seeds detect it.

    Returns:
        The path of `report.html`. `report.md` is in the same folder.

    Raises:
        UsageError: the paths are in different folders, and `out` is None.
        RunError: a run cannot be read.
    """
    parents = {folder.resolve().parent for folder in paths}
    if not out and len(paths) > 1 and len(parents) > 1:
        raise UsageError("The runs are in different folders. Pass --out with the report's folder.")
    out = out or (paths[0] if len(paths) == 1 else parents.pop())
    from jaxdrill.report import text
    from jaxdrill.report.analysis import group_runs
    from jaxdrill.runs.reader import read_all

    runs = read_all(paths)
    for group in group_runs(runs):
        for caveat in text.caveats([analysis.run for analysis in group]):
            print_error(caveat)
    html, markdown = render(runs, detect)
    write_text(out / "report.md", markdown)
    write_text(out / "report.html", html)
    return out / "report.html"


def render(runs: Sequence["FinishedRun"], detect: float | None = None) -> tuple[str, str]:
    """Render the report of runs, in the order of `read_all`.

    Args:
        runs: the runs.
        detect: difference in percentage points. The report says how many seeds detect it.

    Returns:
        The report as HTML and as Markdown.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    from jaxdrill.report import pictures, plots, tables, text
    from jaxdrill.report.analysis import group_runs

    environment = Environment(
        loader=PackageLoader("jaxdrill.report", ""),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "html": text.html_text,
        "plain": text.markdown_text,
        "table": text.markdown_table,
    }
    groups = group_runs(runs)
    datasets = ", ".join(group[0].run.dataset for group in groups)
    title = f"{'The drill' if len(runs) > 1 else runs[0].name} on {datasets}"
    context = {"title": title, "groups": groups, "runs": runs, "detect": detect}
    context |= {"pictures": pictures, "plots": plots, "tables": tables, "text": text}
    html, markdown = (
        environment.get_template(name).render(context)
        for name in ("report.html.jinja", "report.md.jinja")
    )
    return html, markdown


def summary(paths: Sequence[Path], width: int | None = None) -> str:
    """Return the results and comparisons of runs, as training prints them at its end.

    Args:
        paths: run folders, or folders that contain run folders.
        width: width of the terminal in characters; None for Markdown.
    """
    from jaxdrill.report import tables, text
    from jaxdrill.report.analysis import group_runs
    from jaxdrill.runs.reader import read_all

    shown = []
    for group in group_runs(read_all(paths)):
        shown += filter(None, (tables.results(group), tables.comparisons(group)))
    return "\n\n".join(
        text.text_table(table, width) if width else text.markdown_table(table) for table in shown
    )
