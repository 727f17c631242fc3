"""A second opinion that does not wear out the test images: cross-validation over the training images.

    python -m benchmarks.cross_validation 5 6 --data-dir FOLDER

Each recipe is trained without each of five equal parts of the training images in turn, and evaluated on that part, so
that every training image is answered once by networks that have not seen it. Run folders are kept, and continued. The
figures go into `--json`.
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
    """The accuracy of each fold and seed after the last epoch, float64[F, S]."""
    found, count = [], len(data.load(config.data, options.data_dir).train_labels)
    for fold in range(1, options.folds + 1):
        part = config.model_copy(update={"hold_out": count // options.folds, "fold": fold})
        with progress.stop_on_signal() as stop:
            command = ["python", "-m", "benchmarks.cross_validation"]
            folder = options.out / f"{config.name}_fold_{fold}"
            session.train(part, folder, stop, options.data_dir, command=command)
        found.append(reader.read(folder).metrics["accuracy"][:, -1])
    return np.array(found)


def main() -> None:
    parser = Parser(
        prog="python -m benchmarks.cross_validation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "steps", nargs="+", metavar="STEP", help="as --step; each is compared with the first"
    )
    parser.add_argument("--data-dir", type=Path, help="folder of the four official idx files")
    parser.add_argument("--data", default="mnist", help="(default: mnist)")
    parser.add_argument("--folds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seeds", type=int, default=3, help="a fold (default: 3)")
    parser.add_argument("--epochs", type=int, help="(default: each recipe's own)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/cross_validation"), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="for every figure (default: figures.json in --out)",
    )
    options = parser.parse_args()
    flags = {"data": options.data, "seeds": f"{options.seeds}"}
    flags |= {"epochs": f"{options.epochs}"} if options.epochs else {}
    rows: list[dict[str, Any]] = []
    for step in options.steps:
        config = recipes.load(step, flags)
        devices.set_up_for([config])
        found = accuracies(config, options)
        rows.append(
            {
                "step": config.name,
                "epochs": config.epochs,
                "folds": found.tolist(),
                "mean": found.mean(),
            }
        )
        if len(rows) > 1:  # by fold: its seeds share their images
            first = np.array(rows[0]["folds"])
            change = statistics.difference(rows[0]["step"], first.mean(axis=1), found.mean(axis=1))
            rows[-1] |= {
                "difference": change.mean,
                "interval": change.interval,
                "p_value": change.p_value,
            }
        write_text(options.json or options.out / "figures.json", json.dumps(rows, indent=1) + "\n")
        print(
            f"{config.name}: {100 * found.mean():.3f} % over {options.folds} folds of {options.seeds} seeds; by fold",
            ", ".join(f"{100 * each:.3f}" for each in found.mean(axis=1)),
        )


if __name__ == "__main__":
    sys.exit(exit_code(main))
