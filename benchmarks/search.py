"""Searches for better recipes on held-out training images; the test images are never evaluated.

    python -m benchmarks.search SPACE.toml --data-dir FOLDER

A space names the recipe to start from, the fields that vary (each with a list of values, or a table of named ones), and
rungs of so many epochs and seeds. All combinations, or `draw` of them at random, are trained on the first rung, the
better half of them, by mean validation accuracy, on the next (successive halving: Jamieson and Talwalkar, 2016). What
was trained before a stop is not trained again. The run folders and the results, SPACE.json, go into `--out`;
`--results` names another folder for the results. `--frontier` writes the tables of all results in that folder.
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
    """The recipes of a space, those with too many parameters left out.

    Raises:
        UsageError: the space names no choices, or a recipe that is wrong.
    """
    for key in [
        *sorted(set(space) - KEYS),
        *(key for key in ("choices", "rungs") if not space.get(key)),
    ]:
        raise UsageError(
            f"{source}{key} is {'missing' if key in KEYS else 'unknown' + nearest(key, KEYS)}"
        )
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


def trained(config: Config, folder: Path, data_dir: Path | None) -> dict[str, Any]:
    """Trains a recipe, or goes on, and says what came out."""
    from jaxdrill.runs import progress, reader, session
    from jaxdrill.training import devices

    devices.set_up_for([config])
    with progress.stop_on_signal() as stop:
        session.train(config, folder, stop, data_dir, command=["python", "-m", "benchmarks.search"])
    run, end = reader.read(folder), infer_shapes(config.network)[-1]
    # A later rung may have added seeds.
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
    """Train the recipes of a space rung by rung. Each recipe's result is written when its training ends.

    Args:
        path: the TOML file of the space.
        out: folder for the run folders.
        results: folder for the results, a JSON file named after the space.
        data_dir: folder of the four official idx files; None for the cache.

    Raises:
        UsageError: the space is wrong.
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
            folder = (
                out / path.stem / f"{config.epochs}_{config.name}"
            )  # a rung of only more seeds goes on in it
            rows.append({"rung": number} | trained(config, folder, data_dir))
            found.append((-rows[-1]["accuracy"], config))
            write_text(
                results / f"{path.stem}.json", json.dumps({"about": about, "rows": rows}, indent=1)
            )
        found.sort(key=lambda each: each[0])
        configs = [config for _, config in found[: -(-len(found) // 2)]]
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Results as a Markdown table, the best of the last rung first."""
    lines = [
        "| recipe | parameters | operations | epochs | seeds | validation % | of each seed | loss | s a seed |",
        "|---|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in sorted(rows, key=lambda row: (-row.get("rung", 1), -row["accuracy"])):
        each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in row["accuracies"])
        lines.append(
            f"| {row['name']} | {row['parameters']:,} | {row['operations']:,} | {row['epochs']} | {len(row['seeds'])} "
            f"| {100 * row['accuracy']:.3f} | {each} | {row['loss']:.4f} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def frontier(results: Path) -> str:
    """Return all results of a folder as Markdown, a part for each file: an `about` and the `rows`."""
    about = """# What was tried

Made from `results/search/` by `python -m benchmarks.search`. Each recipe was trained on the training images but 10,000,
and evaluated on those; the test images had no part in it. Seconds are those of a machine with other work to do.
"""
    parts = [about]
    for file in sorted(results.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        parts.append(f"## {file.stem}\n\n{found['about']}\n\n{table(found['rows'])}\n")
    return "\n".join(parts)


def main() -> None:
    parser = Parser(
        prog="python -m benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "space", type=Path, nargs="*", metavar="SPACE.toml", help="none: only write --frontier"
    )
    parser.add_argument("--data-dir", type=Path, help="folder of the four official idx files")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/search"),
        metavar="FOLDER",
        help="for the run folders (default: %(default)s)",
    )
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="for the results (default: that of --out)"
    )
    parser.add_argument(
        "--frontier", type=Path, metavar="FILE.md", help="write the tables of all --results into it"
    )
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
