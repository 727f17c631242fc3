"""TensorBoard event files: one sub-run a seed, one point an epoch, at the optimiser step that ended it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import time
from typing import Any

_crc32c = os.environ.get("CRC32C_SW_MODE")
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined] # noqa: E402
from tensorboardX.summary import scalar  # noqa: E402

if _crc32c is None:  # The import of tensorboardX has set it for a package that is imported by now.
    os.environ.pop("CRC32C_SW_MODE", None)

TAGS = {  # tag: column of `metrics.jsonl`
    f"{split}/{key}": f"{split}_{key}"
    for split in ("train", "test", "validation")
    for key in ("loss", "accuracy")
} | {"learning_rate": "learning_rate"}


class Events:
    """The writers of seeds that are trained together. Not `SummaryWriter`: its thread would die of a full disk, and the
    training would wait for it forever."""

    def __init__(self, writers: dict[int, EventsWriter]) -> None:
        self._writers = writers

    def write(self, rows: Sequence[dict[str, Any]], images_per_second: float) -> None:
        """Adds an epoch: rows of `metrics.jsonl`, one a seed, and the training images a second of all seeds at once.

        Raises:
            OSError: it cannot be written.
        """
        for row in rows:
            writer, values = (
                self._writers[row["seed"]],
                {tag: row[key] for tag, key in TAGS.items() if key in row},
            )
            for tag, value in (values | {"time/images_per_second": images_per_second}).items():
                writer.write_event(
                    Event(wall_time=time(), step=row["step"], summary=scalar(tag, value))
                )
            writer.flush()


@contextmanager
def opened(folder: Path, seeds: Sequence[int], step: int) -> Iterator[Events]:
    """Writers into `folder/seed_1` and so on. What an earlier session wrote of later steps is no longer shown."""
    with ExitStack() as stack:
        writers = {}
        for seed in seeds:
            (own := folder / f"seed_{seed}").mkdir(parents=True, exist_ok=True)
            writers[seed] = writer = EventsWriter(
                f"{own / 'events'}", f".{step}"
            )  # else one a second
            stack.enter_context(closing(writer))
            begun = SessionLog(status=SessionLog.START)
            writer.write_event(Event(wall_time=time(), step=step + 1, session_log=begun))
        yield Events(writers)
