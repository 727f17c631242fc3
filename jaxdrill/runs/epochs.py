"""What an epoch of a group of seeds gave, as lines of `metrics.jsonl` and as one for a person."""

import statistics

from jaxdrill.runs.folder import Rows
from jaxdrill.training import processes
from jaxdrill.training.fit import EpochResult


def as_rows(seeds: list[int], result: EpochResult, split: str, earlier_seconds: float) -> Rows:
    """Lines of `metrics.jsonl`, one a seed: accuracies in 0..1, losses in nats, a seed's part of the seconds."""
    train, test = processes.to_host((result.train, result.test))
    seconds = earlier_seconds + result.train_seconds + result.test_seconds
    return [
        {
            "seed": seed,
            "epoch": result.epoch,
            "step": result.step,
            "learning_rate": result.learning_rate,
            "train_loss": float(train.loss[n]) / int(train.count[n]),
            "train_accuracy": int(train.correct[n]) / int(train.count[n]),
            f"{split}_loss": float(test.loss[n]) / int(test.count[n]),
            f"{split}_accuracy": int(test.correct[n]) / int(test.count[n]),
            f"{split}_examples": int(test.count[n]),
            "seconds": round(seconds / len(seeds), 3),
        }
        for n, seed in enumerate(seeds)
    ]


def as_line(name: str, rows: Rows, epochs: int, split: str) -> str:
    """The rows of an epoch for a person: means over the seeds, and their standard deviation if there are several."""
    mean = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
    spread = (
        f" ± {100 * statistics.stdev(row[f'{split}_accuracy'] for row in rows):.2f}"
        if len(rows) > 1
        else ""
    )
    return (
        f"{name} epoch {rows[0]['epoch'] + 1:2d} of {epochs}  train loss {mean['train_loss']:.4f}  "
        f"train {100 * mean['train_accuracy']:5.2f} %  {split} {100 * mean[f'{split}_accuracy']:5.2f}{spread} %  "
        f"{split} loss {mean[f'{split}_loss']:.4f}  {mean['seconds'] * len(rows):.1f} s"
    )
