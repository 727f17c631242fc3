"""Checkpoints keep every bit and stay whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrill import metrics
from jaxdrill.checkpoint import Checkpoints
from jaxdrill.errors import RunError
from jaxdrill.train import Progress, TrainState


def progress(step: int, seed: int = 0) -> Progress:
    values = jax.random.normal(jax.random.key(seed), (3, 4))
    state = TrainState(jnp.array([step]), {0: {"kernel": values}}, {0: {"mean": values[0]}}, (values + 1, ()))
    return Progress(state, metrics.Sums(jnp.float32(0.1), jnp.int32(2), jnp.int32(3)))


def test_what_is_saved_is_restored(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(progress(0)) is None
    Checkpoints(tmp_path).save(7, progress(7, 1))
    restored = Checkpoints(tmp_path).restore(progress(0))
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, progress(7, 1)))
    assert isinstance(restored, Progress)
    assert restored.state.params[0]["kernel"].dtype == jnp.float32


def test_only_the_latest_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 5, 11):
        checkpoints.save(step, progress(step, step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["11"]
    restored = checkpoints.restore(progress(0))
    assert restored is not None and int(restored.state.step[0]) == 11


def test_a_save_that_was_killed_is_ignored(tmp_path):
    Checkpoints(tmp_path).save(3, progress(3))
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    restored = Checkpoints(tmp_path).restore(progress(0))
    assert restored is not None and int(restored.state.step[0]) == 3


def test_a_damaged_checkpoint_is_named(tmp_path):
    Checkpoints(tmp_path).save(3, progress(3))
    for file in (tmp_path / "3" / "default").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(RunError, match=r"3 cannot be read \(.*\); delete it to start afresh") as error:
        Checkpoints(tmp_path).restore(progress(0))
    assert "\n" not in str(error.value)


def test_a_device_count_may_change(tmp_path):
    """What two devices saved, one restores."""
    two = jax.sharding.NamedSharding(jax.make_mesh((2,), ("batch",)), jax.sharding.PartitionSpec())
    Checkpoints(tmp_path).save(4, jax.device_put(progress(4, 2), two))
    one = jax.device_put(progress(0), jax.devices()[1])
    restored = Checkpoints(tmp_path).restore(one)
    assert restored is not None
    assert restored.state.params[0]["kernel"].sharding == one.state.params[0]["kernel"].sharding
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, progress(4, 2)))
    assert dataclasses.is_dataclass(restored)
