"""Checkpoints keep every bit, and a damaged one is never used."""

import json

import chex
import jax
import numpy as np
import pytest
from jaxdrill.training.program import Program, Progress
from safetensors.numpy import load_file, save_file

from jaxdrill import array_files
from jaxdrill.errors import RunError
from jaxdrill.runs import checkpoints
from jaxdrill.runs.checkpoints import Checkpoints

ABOUT = {
    "seeds": [5, 6],
    "rows": [{"seed": 5, "epoch": 0, "train_loss": 0.1}],
    "identity": {},
    "epoch_seconds": 1.5,
}


@pytest.fixture(scope="module")
def program(tiny, digits):
    return Program(tiny, digits, 2)


@pytest.fixture(scope="module")
def progress(program):
    """That of seeds 5 and 6, in memory."""
    return jax.device_get(program.start(program.root_keys([5, 6])))


def saved(folder, progress, *steps):
    """Checkpoints at these steps, each with its step added to all values; the last progress."""
    saver = Checkpoints(folder)
    for step in steps:
        last = jax.tree.map(lambda a, step=step: a + np.asarray(step, a.dtype), progress)
        saver.save(step, checkpoints.named(last), ABOUT)
    return last


def test_what_is_saved_is_restored(tmp_path, program, progress):
    assert checkpoints.latest(tmp_path / "none") is None
    last = saved(tmp_path, progress, 7)
    checkpoint = checkpoints.latest(tmp_path)
    assert (checkpoint.step, checkpoint.seeds, checkpoint.metadata) == (7, [5, 6], ABOUT)
    restored = checkpoints.select(checkpoint, program.template, [5, 6])
    assert isinstance(restored, Progress)
    chex.assert_trees_all_equal(restored, last, strict=True)


def test_seeds_of_a_group_are_restored_apart(tmp_path, program, progress):
    """For another grouping, as fewer devices or other seeds ask for."""
    last = saved(tmp_path, progress, 7)
    alone = checkpoints.select(checkpoints.latest(tmp_path), program.template, [6])
    chex.assert_trees_all_equal(alone, jax.tree.map(lambda a: a[1:], last), strict=True)


def test_another_networks_checkpoint_is_refused(tmp_path, program, progress):
    saved(tmp_path, progress, 7)
    checkpoint = checkpoints.latest(tmp_path)
    name = next(name for name in checkpoint.arrays if "conv2" in name)
    del checkpoint.arrays[name]
    with pytest.raises(
        RunError, match=r"step_7.safetensors is of another network: .*conv2.* is missing"
    ):
        checkpoints.select(checkpoint, program.template, [5])
    checkpoint.arrays[name] = np.zeros((2, 1))
    with pytest.raises(RunError, match=r"conv2.* is float64\[2, 1\]"):
        checkpoints.select(checkpoint, program.template, [5])


def test_the_last_two_are_kept(tmp_path, progress):
    (tmp_path / "step_x.safetensors").write_text("mine")
    saved(tmp_path, progress, 3, 5, 11, 100)
    assert {path.name for path in tmp_path.iterdir()} == {
        "step_11.safetensors",
        "step_100.safetensors",
        "step_x.safetensors",
    }
    assert checkpoints.latest(tmp_path).step == 100


def test_a_save_that_was_killed_is_ignored(tmp_path, progress):
    saved(tmp_path, progress, 3)
    (tmp_path / "step_5.safetensors.77.tmp").write_bytes(b"half")
    assert checkpoints.latest(tmp_path).step == 3


def flip(file, where):
    content = bytearray(file.read_bytes())
    content[where] ^= 0x10
    file.write_bytes(content)


SPOILT = {
    "a byte of an array": lambda file: flip(file, -5),
    "a byte of the rows": lambda file: flip(file, file.read_bytes().index(b"0.1}")),
    "a byte of a name": lambda file: flip(file, file.read_bytes().index(b"conv1")),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "empty": lambda file: file.write_bytes(b""),
    "an array away": lambda file: save_file(dict(list(load_file(file).items())[1:]), file),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "of other things": lambda file: array_files.write(
        file, {"a": np.zeros(2)}, {"step": "8", "metadata": "[]"}
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_the_one_before_a_damaged_one_is_used(tmp_path, progress, capsys, how):
    saved(tmp_path, progress, 3, 8)
    SPOILT[how](tmp_path / "step_8.safetensors")
    assert checkpoints.latest(tmp_path).step == 3
    told = capsys.readouterr().err
    if how == "gone":
        assert told == ""
    else:
        assert (
            told.startswith(f"jaxdrill: warning: {tmp_path / 'step_8.safetensors'} ")
            and told.count("\n") == 1
        )
        assert told.endswith("; the checkpoint before it, of step 3, is used\n")


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(tmp_path, progress):
    saved(tmp_path, progress, 3)
    (tmp_path / "step_3.safetensors").rename(tmp_path / "step_9.safetensors")
    with pytest.raises(
        RunError, match=r"step_9.safetensors is damaged \(its step is not that of its name\)"
    ):
        checkpoints.latest(tmp_path)


def test_no_whole_one_is_told_in_one_line(tmp_path, progress):
    saved(tmp_path, progress, 3, 8)
    for file in tmp_path.iterdir():
        flip(file, -1)
    with pytest.raises(
        RunError, match=r"step_8.safetensors is damaged: .*delete it to start these seeds"
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
def test_metadata_of_another_kind_is_damage_too(tmp_path, progress, change):
    """With a right sum, as somebody could make it."""
    saved(tmp_path, progress, 3)
    arrays = checkpoints.named(progress)
    array_files.write(
        tmp_path / "step_3.safetensors",
        arrays,
        {"step": "3", "metadata": json.dumps(ABOUT | change)},
    )
    with pytest.raises(RunError, match=r"step_3.safetensors is damaged \("):
        checkpoints.latest(tmp_path)
