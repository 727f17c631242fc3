"""Compare recipes by cross-validation on the training images, without the test images.

    python -m benchmarks.cross_validation 5 6 --data-dir FOLDER

The training images are split into five folds. For each fold, each recipe is trained on the other
four folds and evaluated on this one. Run folders are kept, and rerunning the command resumes
unfinished runs. The results are written to `--json`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jaxdrill import config as recipes
from jaxdrill import data
from jaxdrill.config.config import Config
from jaxdrill.errors import Parser, exit_code
from jaxdrill.files import write_text
from jaxdrill.report import statistics
from jaxdrill.runs import progress, reader, session
from jaxdrill.training import devices


def accuracies(config: Config, options: argparse.Namespace) -> np.ndarray:
    """Return the accuracy per fold and seed after the last epoch, float64[F, S]."""
    found, count = [], len(data.load(config.data, options.data_dir).train_labels)
    for fold in range(1, options.folds + 1):
        part = config.model_copy(update={"hold_out": count // options.folds, "fold": fold})
        with progress.stop_on_signal() as stop:
            command = ["python", "-m", "benchmarks.cross_validation"]
            folder = options.out / f"{config.name}_fold_{fold}"
            session.train(part, folder, stop, options.data_dir, command=command)
        found.append(reader.read(folder).metrics["accuracy"][:, -1])
    return np.array(found)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(
        prog="python -m benchmarks.cross_validation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    about = "recipe, as for jaxdrill train --step; each is compared with the first"
    parser.add_argument("steps", nargs="+", metavar="STEP", help=about)
    parser.add_argument("--data-dir", type=Path, help="folder of the four official idx files")
    parser.add_argument("--data", default="mnist", help="(default: mnist)")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default: 5)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds per fold (default: 3)")
    parser.add_argument("--epochs", type=int, help="(default: those of each recipe)")
    out, about = Path("runs/cross_validation"), "folder for the run folders (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=out, help=about)
    about = "file of all results (default: figures.json in --out)"
    parser.add_argument("--json", type=Path, metavar="FILE", help=about)
    return parser.parse_args()


def main() -> None:
    """Run the command."""
    options = parse_options()
    flags = {"data": options.data, "seeds": f"{options.seeds}"}
    flags |= {"epochs": f"{options.epochs}"} if options.epochs else {}
    rows: list[dict[str, Any]] = []
    for step in options.steps:
        config = recipes.load(step, flags)
        devices.set_up_for([config])
        found = accuracies(config, options)
        about = {"step": config.name, "epochs": config.epochs}
        rows.append(about | {"folds": found.tolist(), "mean": found.mean()})
        if len(rows) > 1:  # The test compares folds, because the seeds of a fold share its images.
            first = np.array(rows[0]["folds"])
            change = statistics.difference(rows[0]["step"], first.mean(axis=1), found.mean(axis=1))
            rows[-1] |= {
                "difference": change.mean,
                "interval": change.interval,
                "p_value": change.p_value,
            }
        write_text(options.json or options.out / "figures.json", json.dumps(rows, indent=1) + "\n")
        folds = ", ".join(f"{100 * each:.3f}" for each in found.mean(axis=1))
        print(f"{config.name}: mean of {options.folds} folds and {options.seeds} seeds per fold:")
        print(f"  {100 * found.mean():.3f} %; per fold {folds}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
