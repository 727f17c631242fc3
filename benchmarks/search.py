"""Search for better recipes on held-out training images. The test images are never evaluated.

    python -m benchmarks.search SPACE.toml --data-dir FOLDER

A space is a TOML file with the recipe to start from, the fields that vary, and the rungs. A field
has a list of values, or a table of named values. A rung is a number of epochs and seeds. All
combinations, or `draw` random ones, are trained on the first rung. The better half by mean
validation accuracy continues on the next rung (successive halving: Jamieson and Talwalkar, 2016).

Rerun the command to resume a stopped search. Run folders and results (SPACE.json) are written to
`--out`. `--results` is another folder for the results. `--frontier` writes the tables of all
results in this folder.
"""

import argparse
import itertools
import json
import random
import sys
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from jaxdrill import config as recipes
from jaxdrill.config.config import Config
from jaxdrill.config.layers import count_parameters, infer_shapes
from jaxdrill.errors import Parser, UsageError, exit_code, nearest
from jaxdrill.files import write_text

KEYS = {"recipe", "choices", "rungs", "draw", "parameters_below", "hold_out", "data"}


def proposals(space: dict[str, Any], source: str) -> Iterator[Config]:
    """Yield the recipes of a space, except those with too many parameters.

    Args:
        space: the content of the TOML file.
        source: start of the error messages.

    Raises:
        UsageError: a key is missing or unknown, or a recipe is invalid.
    """
    for key in sorted(set(space) - KEYS):
        raise UsageError(f"{source}{key} is unknown{nearest(key, KEYS)}")
    for key in ("choices", "rungs"):
        if not space.get(key):
            raise UsageError(f"{source}{key} is missing")
    fixed = {
        "hold_out": space.get("hold_out", 10_000),
        "data": space.get("data", "mnist"),
        "evaluate_on": "validation",
    }
    base = recipes.load(space.get("recipe", "5")).model_dump(mode="json", exclude={"name"})
    named = [
        values.items() if isinstance(values, dict) else [(f"{value}", value) for value in values]
        for values in space["choices"].values()
    ]
    combinations = list(itertools.product(*named))
    if space.get("draw", len(combinations)) < len(combinations):
        combinations = random.Random(0).sample(combinations, space["draw"])
    for combination in combinations:
        table = deepcopy(base) | fixed
        for field, (_, value) in zip(space["choices"], combination, strict=True):
            *outer, inner = field.split(".")
            (table[outer[0]] if outer else table)[inner] = value
        config = recipes.from_table("_".join(label for label, _ in combination), table, source)
        if count_parameters(config.network) < space.get("parameters_below", 10_000):
            yield config


def train(config: Config, folder: Path, data_dir: Path | None) -> dict[str, Any]:
    """Train a recipe, or resume its training. Return its results."""
    from jaxdrill.runs import progress, reader, session
    from jaxdrill.training import devices

    devices.set_up_for([config])
    with progress.stop_on_signal() as stop:
        session.train(config, folder, stop, data_dir, command=["python", "-m", "benchmarks.search"])
    run, end = reader.read(folder), infer_shapes(config.network)[-1]
    # The folder has more seeds if a later rung has already trained it.
    metrics = {name: values[: len(config.seed_list)] for name, values in run.metrics.items()}
    accuracies, losses = metrics["accuracy"][:, -1], metrics["loss"][:, -1]
    return {
        "name": config.name,
        "epochs": run.epochs,
        "seeds": run.seeds[: len(config.seed_list)],
        "parameters": end.parameters,
        "operations": end.macs,
        "accuracies": accuracies.tolist(),
        "accuracy": float(accuracies.mean()),
        "loss": float(losses.mean()),
        "seconds": round(float(metrics["seconds"].sum(1).mean()), 1),
    }


def search(path: Path, out: Path, results: Path, data_dir: Path | None) -> None:
    """Train the recipes of a space rung by rung, and write the results after each recipe.

    Args:
        path: TOML file of the space.
        out: folder for the run folders.
        results: folder for the results, a JSON file named after the space.
        data_dir: folder of the four official idx files; None for the cache.

    Raises:
        UsageError: the space is invalid.
        RunError, Stopped: as `session.train`.
    """
    try:
        space = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}") from error
    configs, rows = list(proposals(space, f"{path}: ")), []
    about = f"From {space.get('recipe', 'step_5')}, by {', '.join(space['choices'])}."
    for number, rung in enumerate(space["rungs"], start=1):
        found: list[tuple[float, Config]] = []
        for config in configs:
            config = config.model_copy(update=rung)
            # A rung that only has more seeds than the previous one resumes in the same folder.
            folder = out / path.stem / f"{config.epochs}_{config.name}"
            rows.append({"rung": number} | train(config, folder, data_dir))
            found.append((-rows[-1]["accuracy"], config))
            text = json.dumps({"about": about, "rows": rows}, indent=1)
            write_text(results / f"{path.stem}.json", text)
        found.sort(key=lambda each: each[0])
        configs = [config for _, config in found[: -(-len(found) // 2)]]
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Return results as a Markdown table. The best results of the last rung come first."""
    lines = [
        "| recipe | parameters | operations | epochs | seeds | validation % | of each seed "
        "| loss | s a seed |",
        "|---|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in sorted(rows, key=lambda row: (-row.get("rung", 1), -row["accuracy"])):
        each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in row["accuracies"])
        lines.append(
            f"| {row['name']} | {row['parameters']:,} | {row['operations']:,} "
            f"| {row['epochs']} | {len(row['seeds'])} | {100 * row['accuracy']:.3f} "
            f"| {each} | {row['loss']:.4f} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def frontier(results: Path) -> str:
    """Return all results of a folder as Markdown, with one section per JSON file."""
    about = """# What was tried

Made from `results/search/` by `python -m benchmarks.search`. \
Each recipe was trained on the training images but 10,000,
and evaluated on those; the test images had no part in it. \
Seconds are those of a machine with other work to do.
"""
    parts = [about]
    for file in sorted(results.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        parts.append(f"## {file.stem}\n\n{found['about']}\n\n{table(found['rows'])}\n")
    return "\n".join(parts)


def main() -> None:
    """Run the command."""
    parser = Parser(
        prog="python -m benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    about = "file of a search space; without one, only --frontier is written"
    parser.add_argument("space", type=Path, nargs="*", metavar="SPACE.toml", help=about)
    parser.add_argument("--data-dir", type=Path, help="folder of the four official idx files")
    out, about = Path("runs/search"), "folder for the run folders (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=out, metavar="FOLDER", help=about)
    about = "folder for the results (default: --out)"
    parser.add_argument("--results", type=Path, metavar="FOLDER", help=about)
    about = "write the tables of all files in --results to this file"
    parser.add_argument("--frontier", type=Path, metavar="FILE.md", help=about)
    options = parser.parse_args()
    if not options.space and not options.frontier:
        raise UsageError(
            "there is nothing to do. Name a SPACE.toml, or a file for the tables with --frontier."
        )
    results = options.results or options.out
    for path in options.space:
        search(path, options.out, results, options.data_dir)
    if options.frontier:
        write_text(options.frontier, frontier(results))


if __name__ == "__main__":
    sys.exit(exit_code(main))
