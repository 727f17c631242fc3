"""Generate the tables of README.md, docs/results.md and docs/speed.md, and the ladder picture.

python -m benchmarks.readme
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import workers
from jaxdrill.files import write_text
from jaxdrill.report import plots, summary, tables
from jaxdrill.report.analysis import Analysis, group_runs
from jaxdrill.runs import reader

FOLDER, README, RESULTS = Path("results"), Path("README.md"), Path("docs/results.md")
PICTURE, SPEED = Path("docs/ladder.svg"), Path("docs/speed.md")
MEASURED = Path("results/benchmarks/cpu.json")
# The colours of the report. An SVG image cannot use the styles of the page that contains it.
COLOURS = """<style>svg{--ink:#1d2433;--line:#d7dce4;--a:#1f6fb2;--b:#c2571a}
@media(prefers-color-scheme:dark){svg{--ink:#e4e8ef;--line:#343c49;--a:#6cb2ee;--b:#f09a5f}}</style>"""


def replace_tables(text: str, tables: Sequence[str]) -> str:
    """Replace each Markdown table in a text by the new table with the same first two columns."""
    lines = text.split("\n")
    for table in tables:
        names = " | ".join(table.split(" | ")[:2])
        first = next(n for n, line in enumerate(lines) if line.startswith(names))
        last = next(n for n in range(first, len(lines)) if not lines[n].startswith("|"))
        lines[first:last] = table.split("\n")
    return "\n".join(lines)


def short_table(analyses: Sequence[Analysis]) -> str:
    """Return the README's table: one row per step, with its verdict."""
    lines = [
        "| step | parameters | test accuracy % | 95 % interval | baseline | verdict |",
        "| --- | --: | --: | --: | --- | --- |",
    ]
    for each in analyses:
        parameters, change = each.run.metadata["parameters"], each.change
        low, high = (f"{100 * bound:.2f}" for bound in each.last.interval or (0, 0))
        lines.append(
            f"| {each.label} | {parameters:,} | {tables.percent(each.last)} | "
            f"{low} to {high} | {change.baseline if change else '-'} | "
            f"{change.verdict if change else '-'} |"
        )
    return "\n".join(lines)


def speed_table(found: Mapping[str, Any]) -> str:
    """Return the table of docs/speed.md: seconds of PyTorch divided by seconds of jaxdrill.

    Args:
        found: the results of `benchmarks.compare`.
    """
    rows = []
    for key, each in sorted(found["training_steps"].items()):
        title = f"training step, network of {key.replace('_', ' ', 1)}, batch {each['batch_size']}"
        rows.append((title, each, 1000 / each["steps"], "ms"))
    rows.append(("epoch of step 5, batch 128", found["epochs"]["step_5"], 1, "s"))
    names = workers.PYTORCH
    titles = " | ".join(f"{name} (ratio)" for name in names)
    lines = [f"| | jaxdrill (time) | {titles} | fastest (ratio, range) |"]
    lines.append("| --- " + "| --: " * 6 + "|")
    for title, result, scale, unit in rows:
        ratios = " | ".join(f"{result[name]['ratio']:.2f}" for name in names)
        best = result[result["best_pytorch"]]
        spread = f"{best['lowest_ratio']:.2f} to {best['highest_ratio']:.2f}"
        seconds = f"{result['jaxdrill']['median'] * scale:.1f} {unit}"
        lines.append(f"| {title} | {seconds} | {ratios} | **{best['ratio']:.2f}** ({spread}) |")
    return "\n".join(lines)


def main() -> None:
    """Rewrite the tables and the picture."""
    analyses = group_runs(reader.read_all([FOLDER]))[0]
    write_text(PICTURE, plots.ladder(analyses, 8.5).replace(">", f">{COLOURS}", 1))
    new_tables = {
        README: [short_table(analyses)],
        RESULTS: summary([FOLDER]).split("\n\n"),
        SPEED: [speed_table(json.loads(MEASURED.read_text()))],
    }
    for file, new in new_tables.items():
        write_text(file, replace_tables(file.read_text(encoding="utf-8"), new))


if __name__ == "__main__":
    main()
