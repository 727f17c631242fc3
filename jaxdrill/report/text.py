"""The sentences of the report, and its tables and texts as Markdown, HTML and terminal output."""

import html
import re
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any

from markupsafe import Markup, escape

from jaxdrill.errors import printable
from jaxdrill.report.analysis import Analysis
from jaxdrill.report.statistics import Difference, Summary
from jaxdrill.report.tables import ReportTable, percent, points
from jaxdrill.runs.reader import FinishedRun


def verdict(analyses: Sequence[Analysis]) -> str:
    """Say which steps helped, and which run has the highest mean accuracy."""
    best = max(analyses, key=lambda a: a.last.mean)
    images, seeds = f"{len(best.run.labels):,} {best.run.split} images", len(best.run.seeds)
    accuracy = (
        f"{percent(best.last)} % of {images} after the last epoch ({seeds} seed{'s' * (seeds > 1)})"
    )
    if len(analyses) == 1:
        return f"{best.label} classifies {accuracy} correctly."
    verdicts = {a.label: a.change.verdict for a in analyses if a.change}
    sentences = []
    for word in ("helped", "hurt"):
        if labels := [label for label, found in verdicts.items() if found == word]:
            sentences.append(f"{', '.join(labels)} {word}.")
    for word, one, several in (("inconclusive", "is", "are"), ("single seed", "has a", "have a")):
        if count := [*verdicts.values()].count(word):
            verb = one if count == 1 else several
            sentences.append(f"{count} of {len(verdicts)} comparisons {verb} {word}.")
    opening = " ".join(sentences) or "No two runs in this report can be compared."
    return f"{opening} {best.label} has the highest mean accuracy: {accuracy}."


def describe(analysis: Analysis) -> str:
    """Describe the results of a run: its change, training accuracy, target and notebook."""
    single = len(analysis.run.seeds) == 1
    sentences = [_change(analysis), _gap(analysis)]
    if analysis.has_target:
        sentences.append(_target(analysis))
    if analysis.notebook:
        best, epoch, fraction = analysis.notebook
        ours = "" if single else f"; {100 * fraction:.0f} % of the seeds have a lower best accuracy"
        sentences.append(f"The notebook's best is {100 * best:.2f} % (epoch {epoch + 1}){ours}.")
    if single:
        sentences.append(
            "A single seed shows neither the spread over seeds nor whether a change helped."
        )
    return " ".join(sentences)


def _change(analysis: Analysis) -> str:
    """Describe the difference from the baseline."""
    change, baseline = analysis.change, analysis.baseline
    if baseline is None:
        return "This run has no baseline in this report."
    if change is None:
        return f"This run and its baseline {baseline.name} have no seed in common."
    text = f"Compared with {change.baseline}, {analysis.run.split} accuracy changed by "
    text += f"{_with_interval(change)}: {change.verdict}."
    if change.verdict == "inconclusive" and change.detectable is not None:
        text += f" The smallest difference that {change.seeds} seeds detect is "
        text += f"{100 * change.detectable:.3f} percentage points."
    return text


def _gap(analysis: Analysis) -> str:
    """Describe the difference between training and evaluated accuracy, in evaluation mode."""
    if analysis.gap is None:
        return "Training accuracy in evaluation mode was not measured."
    gap, split = _with_interval(analysis.gap), analysis.run.split
    return f"In evaluation mode, training accuracy minus {split} accuracy is {gap}."


def _with_interval(values: Summary | Difference) -> str:
    """Format a mean difference and its 95 % interval in percentage points."""
    text = f"{points(values.mean)} percentage points"
    if values.interval is None:
        return text
    return f"{text} (95 % interval {' to '.join(map(points, values.interval))})"


def _target(analysis: Analysis) -> str:
    """Describe how many epochs reach 99.4 %, and how many seeds stay there."""
    count, stay, first = analysis.at_target
    seeds, epochs = len(analysis.run.seeds), analysis.run.epochs
    if not count:
        return "No epoch reaches 99.4 %."
    if seeds == 1:
        return f"{count:.3g} of {epochs} epochs reach 99.4 %."
    since = "" if first is None else f" (from epoch {first + 1}, the median)"
    return (
        f"On average, {count:.3g} of {epochs} epochs reach 99.4 %. At least the last three epochs "
        f"reach 99.4 % in {stay} of {seeds} seeds{since}."
    )


def caveats(runs: Sequence[FinishedRun]) -> list[str]:
    """List what a reader must know before comparing runs that were evaluated on the same images.

    Caveats about a single run start with its folder.
    """
    most = max(len(run.seeds) for run in runs)
    lines = []
    for run in runs:
        seeds, left_out = len(run.seeds), ", ".join(map(str, run.left_out))
        sessions = (run.metadata, *run.metadata["earlier_sessions"])
        notes = {
            "has a single seed: the spread over seeds is unknown, so no change can be tested.": (
                seeds == 1
            ),
            f"has {seeds} seeds, other runs have up to {most}. Runs are compared on the seeds they "
            "have in common.": 1 < seeds < most,
            f"leaves out seed(s) {left_out}: their number of epochs is different.": left_out,
            "was trained in sessions with different versions or machines (see the last section).": (
                len({(_environment(each), each["git_commit"]) for each in sessions}) > 1
            ),
        }
        lines += [f"{run.folder} {note}" for note, applies in notes.items() if applies]
    missing = ", ".join(f"{run.folder}" for run in runs if not run.images)
    notes = {
        "The runs have different numbers of epochs. Each run is evaluated after its last epoch.": (
            len({run.epochs for run in runs}) > 1
        ),
        f"images.npz is missing in {missing}: the report cannot show those images.": missing,
        "The runs were made with different versions or machines (see the last section). On "
        "different devices, the accuracies of a seed are equal in distribution, but not "
        "identical.": len({_environment(run.metadata) for run in runs}) > 1,
    }
    return [*lines, *(note for note, applies in notes.items() if applies)]


def _environment(session: dict[str, Any]) -> str:
    """Return everything of a session's environment that can change the bits of its results."""
    return str([session[key] for key in ("versions", "devices", "processor")])


def markdown_table(table: ReportTable) -> str:
    """Return a table as Markdown."""
    rule = ["--:" if numeric else "---" for numeric in table.numeric]
    header, *rows = [map(markdown_text, row) for row in (table.header, *table.rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def markdown_text(text: str) -> str:
    """Escape text for one line of Markdown, so that it forms no HTML, link or end of a cell."""
    escaped = html.escape(printable(" ".join(text.split())), quote=False)
    return escaped.replace("|", "\\|").replace("](", "]\\(")


def html_text(text: str) -> Markup:
    """Escape text for HTML. `Backticks` become code, and lines may break after an underscore."""
    code = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(printable(text))))
    return Markup(code.replace("_", "_<wbr>"))


def text_table(table: ReportTable, width: int) -> str:
    """Return a table as aligned text.

    Headers are wrapped to the width of their column. Columns that do not fit into `width`
    characters follow below, after a repetition of the first column, as pandas prints them.
    """
    first, *others = [
        _column(header, cells, str.rjust if numeric else str.ljust)
        for numeric, header, *cells in zip(table.numeric, table.header, *table.rows, strict=True)
    ]
    blocks = [[first]]
    for column in others:
        used = sum(len(each[0]) + 2 for each in blocks[-1])
        if len(blocks[-1]) > 1 and used + len(column[0]) > width:
            blocks.append([first])
        blocks[-1].append(column)
    return "\n\n".join(map(_side_by_side, blocks))


def _column(header: str, cells: Sequence[str], align: Callable[[str, int], str]) -> list[str]:
    """Return the lines of a column, equally wide: the wrapped header, a rule, the cells."""
    header, *cells = map(printable, (header, *cells))
    width = max(map(len, [*cells, *header.split()]))
    return [align(line, width) for line in [*wrap(header, width), "-" * width, *cells]]


def _side_by_side(columns: Sequence[list[str]]) -> str:
    """Join the lines of columns. Columns with fewer header lines start lower."""
    height = max(map(len, columns))
    filled = [[" " * len(column[0])] * (height - len(column)) + column for column in columns]
    return "\n".join("  ".join(line).rstrip() for line in zip(*filled, strict=True))
