"""Write and read checkpoints: every bit is restored, and a damaged checkpoint is never used."""

import json

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxdrill import array_files
from jaxdrill.errors import RunError
from jaxdrill.runs import checkpoints
from jaxdrill.runs.checkpoints import Checkpoints
from jaxdrill.training.step import TrainState
from jaxdrill.training.trainer import Trainer, root_keys

ABOUT = {
    "seeds": [5, 6],
    "rows": [{"seed": 5, "epoch": 0, "train_loss": 0.1}],
    "identity": {},
    "epoch_seconds": 1.5,
}


@pytest.fixture(scope="module")
def trainer(tiny, digits):
    return Trainer(tiny, digits, 2)


@pytest.fixture(scope="module")
def state(trainer):
    """The initial state of seeds 5 and 6 as NumPy arrays."""
    return jax.device_get(trainer.init(root_keys([5, 6])))


def saved(folder, state, *steps):
    """Save a checkpoint per step, with the step added to all values. Return the last state."""
    saver = Checkpoints(folder)
    for step in steps:
        last = jax.tree.map(lambda a, step=step: a + np.asarray(step, a.dtype), state)
        saver.save(step, checkpoints.named(last), ABOUT)
    return last


def test_a_checkpoint_restores_the_saved_state(tmp_path, trainer, state):
    assert checkpoints.latest(tmp_path / "none") is None
    last = saved(tmp_path, state, 7)
    checkpoint = checkpoints.latest(tmp_path)
    assert (checkpoint.step, checkpoint.seeds, checkpoint.metadata) == (7, [5, 6], ABOUT)
    restored = checkpoints.select(checkpoint, trainer.template, [5, 6])
    assert isinstance(restored, TrainState)
    chex.assert_trees_all_equal(restored, last, strict=True)


def test_seeds_of_a_group_are_restored_separately(tmp_path, trainer, state):
    """Fewer devices or other seeds need other groups."""
    last = saved(tmp_path, state, 7)
    alone = checkpoints.select(checkpoints.latest(tmp_path), trainer.template, [6])
    chex.assert_trees_all_equal(alone, jax.tree.map(lambda a: a[1:], last), strict=True)


def test_a_checkpoint_of_another_network_is_rejected(tmp_path, trainer, state):
    saved(tmp_path, state, 7)
    checkpoint = checkpoints.latest(tmp_path)
    name = next(name for name in checkpoint.arrays if "conv2" in name)
    del checkpoint.arrays[name]
    with pytest.raises(
        RunError, match=r"step_7.safetensors belongs to another network: .*conv2.* is missing"
    ):
        checkpoints.select(checkpoint, trainer.template, [5])
    checkpoint.arrays[name] = np.zeros((2, 1))
    with pytest.raises(RunError, match=r"conv2.* is float64\[2, 1\]"):
        checkpoints.select(checkpoint, trainer.template, [5])


def test_the_last_two_checkpoints_are_kept(tmp_path, state):
    (tmp_path / "step_x.safetensors").write_text("mine")
    saved(tmp_path, state, 3, 5, 11, 100)
    assert {path.name for path in tmp_path.iterdir()} == {
        "step_11.safetensors",
        "step_100.safetensors",
        "step_x.safetensors",
    }
    assert checkpoints.latest(tmp_path).step == 100


def test_temporary_files_of_a_killed_save_are_ignored(tmp_path, state):
    saved(tmp_path, state, 3)
    (tmp_path / "step_5.safetensors.77.tmp").write_bytes(b"half")
    assert checkpoints.latest(tmp_path).step == 3


def flip(file, where):
    content = bytearray(file.read_bytes())
    content[where] ^= 0x10
    file.write_bytes(content)


DAMAGE = {
    "a byte of an array": lambda file: flip(file, -5),
    "a byte of the rows": lambda file: flip(file, file.read_bytes().index(b"0.1}")),
    "a byte of a name": lambda file: flip(file, file.read_bytes().index(b"conv1")),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "empty": lambda file: file.write_bytes(b""),
    "an array is missing": lambda file: save_file(dict(list(load_file(file).items())[1:]), file),
    "deleted": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "other content": lambda file: array_files.write(
        file, {"a": np.zeros(2)}, {"step": "8", "metadata": "[]"}
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, state, capsys, how):
    saved(tmp_path, state, 3, 8)
    DAMAGE[how](tmp_path / "step_8.safetensors")
    assert checkpoints.latest(tmp_path).step == 3
    told = capsys.readouterr().err
    if how == "deleted":
        assert told == ""
    else:
        assert (
            told.startswith(f"jaxdrill: warning: {tmp_path / 'step_8.safetensors'} ")
            and told.count("\n") == 1
        )
        assert told.endswith(". The checkpoint of step 3 is used instead.\n")


def test_a_checkpoint_with_the_name_of_another_step_is_damaged(tmp_path, state):
    saved(tmp_path, state, 3)
    (tmp_path / "step_3.safetensors").rename(tmp_path / "step_9.safetensors")
    with pytest.raises(
        RunError, match=r"step_9.safetensors is damaged \(its step is not the one in its name\)"
    ):
        checkpoints.latest(tmp_path)


def test_damage_of_all_checkpoints_is_reported_in_one_line(tmp_path, state):
    saved(tmp_path, state, 3, 8)
    for file in tmp_path.iterdir():
        flip(file, -1)
    with pytest.raises(
        RunError,
        match=r"step_8.safetensors is damaged: .*Delete this folder to train its seeds again",
    ) as error:
        checkpoints.latest(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": [5]},
        {"rows": [{"seed": 5}]},
        {"rows": [{"seed": 5, "epoch": 0, "loss": "x"}]},
        {"seeds": [5]},
        {"seeds": "x"},
        {"identity": 3},
        {"epoch_seconds": None},
        {"seeds": "56"},
        {"seeds": [5, -6]},
        {"layout": [1]},
    ],
)
def test_invalid_metadata_is_damage_too(tmp_path, state, change):
    """Even with a correct checksum."""
    saved(tmp_path, state, 3)
    arrays = checkpoints.named(state)
    array_files.write(
        tmp_path / "step_3.safetensors",
        arrays,
        {"step": "3", "metadata": json.dumps(ABOUT | change)},
    )
    with pytest.raises(RunError, match=r"step_3.safetensors is damaged \("):
        checkpoints.latest(tmp_path)
