"""Checkpoints of the progress of seeds trained together, through Orbax: atomic, and only the latest is kept."""

import logging
import time
from pathlib import Path
from typing import cast

import jax
import orbax.checkpoint as ocp

from jaxdrill.errors import RunError
from jaxdrill.train import Progress

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax 0.11 warns of its own threads at each save


class Checkpoints:
    """The checkpoints in one folder, named by optimiser step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._saved_at, self._save_seconds = time.perf_counter(), 0.0

    def due(self) -> bool:
        """Whether a save now would take less than a tenth of the time since the last one."""
        return time.perf_counter() - self._saved_at > 10 * self._save_seconds

    def save(self, step: int, progress: Progress) -> None:
        """Returns when the checkpoint is complete; a kill before that leaves the previous one."""
        began = time.perf_counter()
        self._manager.save(step, args=ocp.args.StandardSave(progress))
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - began

    def restore(self, like: Progress) -> Progress | None:
        """The latest progress, placed on devices as `like` is; None if nothing was saved.

        Raises:
            RunError: the checkpoint is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
        try:
            return cast(Progress, self._manager.restore(step, args=ocp.args.StandardRestore(abstract)))
        except Exception as error:  # Orbax names no common type for damage
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunError(
                f"{self.folder / str(step)} cannot be read ({why:.200}); delete it to start afresh"
            ) from error
