"""TensorBoard event files: one sub-run a seed, one point an epoch, at the optimiser step that ended it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

TAGS = {  # tag: column of `metrics.jsonl`
    f"{split}/{key}": f"{split}_{key}" for split in ("train", "test", "validation") for key in ("loss", "accuracy")
} | {"learning_rate": "learning_rate"}


class Events:
    """The writers of seeds that are trained together."""

    def __init__(self, writers: dict[int, SummaryWriter]) -> None:
        self._writers = writers

    def write(self, rows: Sequence[dict[str, Any]], images_per_second: float) -> None:
        """Adds an epoch: rows of `metrics.jsonl`, one a seed, and the training images a second of all seeds at once."""
        for row in rows:
            writer = self._writers[row["seed"]]
            for tag, key in TAGS.items():
                if key in row:
                    writer.add_scalar(tag, row[key], row["step"])
            writer.add_scalar("time/images_per_second", images_per_second, row["step"])
            writer.flush()


@contextmanager
def opened(folder: Path, seeds: Sequence[int], step: int) -> Iterator[Events]:
    """Writers into `folder/seed_1` and so on. What an earlier session wrote of later steps is no longer shown."""
    with ExitStack() as stack:
        writers = {
            seed: stack.enter_context(SummaryWriter(str(folder / f"seed_{seed}"), purge_step=step + 1))
            for seed in seeds
        }
        yield Events(writers)
