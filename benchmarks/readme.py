"""The README's tables and its picture of the ladder, and the table of docs/speed.md, from `results/`:

python -m benchmarks.readme
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import compare
from jaxdrill.files import write_text
from jaxdrill.report import plots, summary
from jaxdrill.report.analysis import group_runs
from jaxdrill.runs.reader import read_all

RESULTS, README, PICTURE = Path("results"), Path("README.md"), Path("docs/ladder.svg")
MEASURED, SPEED = Path("results/benchmarks/cpu.json"), Path("docs/speed.md")
# As the report's page has them; a picture cannot see those of the page that it stands in.
COLOURS = """<style>svg{--ink:#1d2433;--line:#d7dce4;--a:#1f6fb2;--b:#c2571a}
@media(prefers-color-scheme:dark){svg{--ink:#e4e8ef;--line:#343c49;--a:#6cb2ee;--b:#f09a5f}}</style>"""


def with_tables(text: str, tables: list[str]) -> str:
    """The text with each Markdown table replaced by the new one whose first two columns have the same names."""
    lines = text.split("\n")
    for table in tables:
        names = " | ".join(table.split(" | ")[:2])
        first = next(n for n, line in enumerate(lines) if line.startswith(names))
        last = next(n for n in range(first, len(lines)) if not lines[n].startswith("|"))
        lines[first:last] = table.split("\n")
    return "\n".join(lines)


def speed_table(found: Mapping[str, Any]) -> str:
    """Return the table of docs/speed.md, of what `benchmarks.compare` wrote: other seconds divided by jaxdrill's."""
    rows = [
        (f"training step, network of {key.replace('_', ' ', 1)}", each, 1000 / each["steps"], "ms")
        for key, each in sorted(found["training_steps"].items())
    ]
    rows.append(("epoch of step 5", found["epochs"]["step_5"], 1, "s"))
    lines = [
        f"| | jaxdrill | {' | '.join(compare.PYTORCH)} | best |",
        "| --- " + "| --: " * 6 + "|",
    ]
    for title, result, scale, unit in rows:
        ratios = [f"{result[name]['ratio']:.2f}" for name in compare.PYTORCH]
        best = result[result["best_pytorch"]]
        spread = (
            f"**{best['ratio']:.2f}** ({best['lowest_ratio']:.2f} to {best['highest_ratio']:.2f})"
        )
        lines.append(
            f"| {title} | {result['jaxdrill']['median'] * scale:.1f} {unit} | {' | '.join(ratios)} | {spread} |"
        )
    return "\n".join(lines)


def main() -> None:
    runs = group_runs(read_all([RESULTS]))[0]
    write_text(PICTURE, plots.ladder(runs, 8.5).replace(">", f">{COLOURS}", 1))
    write_text(
        README, with_tables(README.read_text(encoding="utf-8"), summary([RESULTS]).split("\n\n"))
    )
    table = speed_table(json.loads(MEASURED.read_text()))
    write_text(SPEED, with_tables(SPEED.read_text(encoding="utf-8"), [table]))


if __name__ == "__main__":
    main()
