"""From run folders to tables. It reads files only and needs no JAX."""

import json
import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdrill.config import recipe_folder


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    config: dict[str, Any]
    run: dict[str, Any]
    rows: list[dict[str, Any]]  # one an epoch and seed, accuracies in 0..1


def read_run(folder: Path) -> Run:
    """Reads `config.json`, `run.json` and `metrics.jsonl`."""
    config, run = (json.loads((folder / file).read_text()) for file in ("config.json", "run.json"))
    return Run(config, run, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])


def notebook_best(step: str, epochs: int) -> str:
    """The original notebook's best test accuracy, percent, over as many epochs, and its epoch; `-` if it has none."""
    table = tomllib.loads((recipe_folder() / "notebook_results.toml").read_text())
    accuracies = table.get(step, [])[:epochs]
    return f"{max(accuracies):.2f} ({accuracies.index(max(accuracies))})" if accuracies else "-"


def drill_table(folders: list[Path]) -> str:
    """A Markdown table with one line a run folder: our test accuracies, and the notebook's best over as many epochs."""
    lines = [
        "| step | data | parameters | epochs | seeds | last test % | best test % (epoch) | notebook's best % (epoch) |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for folder in folders:
        run = read_run(folder)
        curves: dict[int, list[float]] = {}
        for row in run.rows:
            curves.setdefault(row["seed"], []).append(100 * row["test_accuracy"])
        epochs, data = max(map(len, curves.values())), run.run["dataset"]
        best = _summary([max(curve) for curve in curves.values()])
        if len(curves) == 1:
            (curve,) = curves.values()
            best += f" ({curve.index(max(curve))})"
        reference = notebook_best(run.config["name"], epochs) if data == "mnist" else "-"
        last = _summary([curve[-1] for curve in curves.values()])
        cells = (run.config["name"], data, f"{run.run['parameters']:,}", epochs, len(curves), last, best, reference)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _summary(values: list[float]) -> str:
    """The mean, and with several values their standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"
