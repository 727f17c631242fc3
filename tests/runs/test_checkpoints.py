"""Checkpoints keep every bit and stay whole."""

import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from conftest import ROOT

from jaxdrill.errors import RunError
from jaxdrill.runs import checkpoints
from jaxdrill.runs.checkpoints import Checkpoints
from jaxdrill.training.program import Program, Progress


@pytest.fixture(scope="module")
def program(tiny, digits):
    return Program(tiny, digits, 2)


def saved(folder, program, *steps):
    """Checkpoints of seeds 5 and 6 at these steps; the last progress."""
    saver, progress = Checkpoints(folder), program.start(program.root_keys([5, 6]))
    for step in steps:
        progress = jax.tree.map(lambda a: a + 1, progress)
        saver.save(step, progress, {"seeds": [5, 6], "rows": [{"seed": 5, "train_loss": 0.1}]})
    return progress


def test_what_is_saved_is_restored(tmp_path, program):
    assert checkpoints.latest(tmp_path / "none") is None
    progress = saved(tmp_path, program, 7)
    checkpoint = checkpoints.latest(tmp_path)
    assert (checkpoint.step, checkpoint.seeds) == (7, [5, 6])
    assert checkpoint.metadata["rows"] == [{"seed": 5, "train_loss": 0.1}]
    restored = checkpoints.restore(checkpoint, program, [5, 6])
    assert isinstance(restored, Progress)
    chex.assert_trees_all_equal(restored, progress)
    chex.assert_trees_all_equal_dtypes(restored, progress)
    assert restored.state.params["conv1"]["kernel"].sharding == progress.state.params["conv1"]["kernel"].sharding


def test_seeds_of_a_group_are_restored_apart(tmp_path, program, tiny, digits):
    """For another grouping, as fewer devices or other seeds ask for."""
    progress = saved(tmp_path, program, 7)
    alone = checkpoints.restore(checkpoints.latest(tmp_path), Program(tiny, digits), [6])
    chex.assert_trees_all_equal(alone, jax.tree.map(lambda a: np.asarray(a)[1:], progress))


def test_only_the_latest_is_kept(tmp_path, program):
    saved(tmp_path, program, 3, 5, 11)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["11"]
    assert checkpoints.latest(tmp_path).step == 11


def test_a_save_that_was_killed_is_ignored(tmp_path, program):
    saved(tmp_path, program, 3)
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.latest(tmp_path).step == 3


@pytest.mark.parametrize("part", ["progress", "metadata"])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path, program, part):
    saved(tmp_path, program, 3)
    for file in (tmp_path / "3" / part).rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(RunError, match=r"3 cannot be read \(.*\); delete it to start these seeds afresh") as error:
        checkpoints.restore(checkpoints.latest(tmp_path), program, [5, 6])
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_leaves_no_traceback(tmp_path, tiny_recipe):
    """As a process: Orbax's reader has threads of its own, whose errors asyncio would print."""
    command = [sys.executable, "-m", "jaxdrill.main", "--step", str(tiny_recipe), "--workdir", str(tmp_path / "run")]
    assert subprocess.run([*command, "--epochs", "1"], cwd=ROOT, capture_output=True).returncode == 0
    for file in (tmp_path / "run" / "checkpoints").rglob("ocdbt.process_0/d/*"):
        file.write_bytes(file.read_bytes()[:10])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be read" in done.stderr and done.stderr.count("\n") == 1
