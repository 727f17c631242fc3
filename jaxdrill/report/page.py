"""The report as HTML and Markdown, from the templates beside this file."""

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from jaxdrill.errors import printable
from jaxdrill.report import pictures, prose, tables
from jaxdrill.report.analysis import group_runs
from jaxdrill.runs.reader import FinishedRun, read_all


def render(runs: Sequence[FinishedRun], detect: float | None = None) -> tuple[str, str]:
    """Render the report of runs, in the order of `read_all`, as HTML and as Markdown.

    `detect` is a difference in percentage points for which the report says how many seeds detect it.
    """
    from jaxdrill.report import (
        plots,  # here, because training imports this module and needs no Matplotlib
    )

    parts = [
        {
            "analyses": analyses,
            "caveats": prose.caveats([analysis.run for analysis in analyses]),
            "explorer": pictures.explorer(analyses),
            "augmentations": pictures.augmentations([analysis.run for analysis in analyses]),
            "comparisons": tables.comparisons(analyses, detect),
        }
        for analyses in group_runs(runs)
    ]
    names = ", ".join(part["analyses"][0].run.dataset for part in parts)
    title = f"The drill on {names}" if len(runs) > 1 else f"{runs[0].name} on {names}"
    context = {
        "title": title,
        "parts": parts,
        "runs": runs,
        "tables": tables,
        "plots": plots,
        "prose": prose,
        "worst": pictures.worst,
    }
    page, text = (
        _environment(kind).get_template(f"report.{kind}.jinja").render(context)
        for kind in ("html", "md")
    )
    return page, text


def summary(folders: Sequence[Path], width: int | None = None) -> str:
    """Return the results of each dataset and its comparisons: as Markdown, or aligned for a terminal.

    Args:
        folders: run folders, or folders of run folders.
        width: of the terminal, characters; None for Markdown.
    """
    shown = []
    for analyses in group_runs(read_all(folders)):
        compared = tables.comparisons(analyses)
        shown += [tables.results(analyses), *([compared] if compared else [])]
    return "\n\n".join(
        text_table(table, width) if width else markdown_table(table) for table in shown
    )


def markdown_table(table: tables.Table) -> str:
    """A table without its columns of pictures."""
    kept = [i for i, kind in enumerate(table.kinds) if kind != "p"]
    rule = ["--:" if kind == "n" else "---" for kind in table.kinds]
    lines = [[plain(row[i]) for i in kept] for row in (table.header, *table.rows)]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in (lines[0], [rule[i] for i in kept], *lines[1:])
    )


def text_table(table: tables.Table, width: int) -> str:
    """Return a table, without its columns of pictures, as aligned text.

    Headers are wrapped to the width of their column. A table that is wider than `width` characters is continued below,
    with its first column repeated, as pandas prints it.
    """
    columns = []
    for i, kind in enumerate(table.kinds):
        if kind != "p":
            cells = [printable(row[i]) for row in table.rows]
            columns.append(
                _column(printable(table.header[i]), cells, str.rjust if kind == "n" else str.ljust)
            )
    blocks = [columns[:1]]
    for column in columns[1:]:
        if (
            len(blocks[-1]) > 1
            and sum(len(each[0]) + 2 for each in [*blocks[-1], column]) - 2 > width
        ):
            blocks.append(columns[:1])
        blocks[-1] = [*blocks[-1], column]
    return "\n\n".join(map(_side_by_side, blocks))


def _side_by_side(columns: Sequence[list[str]]) -> str:
    """Join columns line by line; those with fewer lines, because their header is shorter, begin further down."""
    height = max(map(len, columns))
    filled = [[" " * len(column[0])] * (height - len(column)) + column for column in columns]
    return "\n".join("  ".join(line).rstrip() for line in zip(*filled, strict=True))


def _column(header: str, cells: Sequence[str], align: Callable[[str, int], str]) -> list[str]:
    """Return the lines of a column, all of the same length: its header, wrapped, a rule, and its cells."""
    width = max(map(len, [*cells, *header.split()]), default=0)
    return [
        *(align(line, width) for line in wrap(header, width)),
        "-" * width,
        *(align(cell, width) for cell in cells),
    ]


def plain(text: str) -> str:
    """Text for Markdown, on one line: it can neither end a table's cell nor be read as HTML or a link."""
    escaped = html.escape(printable(" ".join(text.split())), quote=False)
    return escaped.replace("|", "\\|").replace("](", "]\\(")


def code(text: str) -> Markup:
    """Text as HTML, escaped; `backticks` become code, and lines may break after an underscore."""
    return Markup(
        re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(printable(text)))).replace(
            "_", "_<wbr>"
        )
    )


def _environment(kind: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("jaxdrill.report", ""),
        autoescape=kind == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "plain": plain, "markdown_table": markdown_table}
    return environment
