"""Start runs from the weights of a file (`--init-from`)."""

import json
import shutil

import chex
import numpy as np
import pytest
from runs_in_parts import OTHER_RATE, without_seconds
from safetensors.numpy import save_file

from jaxdrill.weights import read_weights
from jaxdrill.weights.convert import to_pytorch

pytestmark = pytest.mark.usefixtures("few_digits", "compiled_once")


def save(weights, file):
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, file)
    return file


def test_a_run_starts_from_our_weights_or_from_those_of_pytorch(
    finished, command, tmp_path, capsys
):
    """A learning rate of almost zero leaves the weights unchanged, but for the statistics."""
    ours = finished / "weights" / "seed_3.safetensors"
    weights = read_weights(ours)[0]
    theirs = save(to_pytorch(weights), tmp_path / "pytorch.safetensors")
    folders = tmp_path / "ours", tmp_path / "theirs"
    for folder, file in zip(folders, (ours, theirs), strict=True):
        assert command(folder, "--init-from", file, *OTHER_RATE) == 0
    after = [read_weights(folder / "weights" / "seed_1.safetensors")[0] for folder in folders]
    chex.assert_trees_all_equal(*after)
    for name, array in after[0].items():
        changed = name.endswith((".mean", ".var"))  # Running statistics follow the images.
        assert np.array_equal(array, weights[name]) != changed, name
    assert without_seconds(folders[0]) == without_seconds(folders[1])
    sums = [json.loads((each / "run.json").read_text())["init_sha256"] for each in folders]
    assert sums[0] == sums[1] != ""
    capsys.readouterr()
    assert command(folders[0], *OTHER_RATE) == 2
    assert "holds a run with init_sha256 = " in capsys.readouterr().err
    other = finished / "weights" / "seed_4.safetensors"
    assert command(folders[0], "--init-from", other, *OTHER_RATE) == 2
    # The same weights in another file and in another layout resume the run.
    assert command(folders[0], "--init-from", theirs, *OTHER_RATE, "--epochs", 3) == 0


def test_a_run_from_weights_resumes_with_config_json_alone(finished, command, tmp_path):
    """As after a stop before `run.json` was written."""
    run = tmp_path / "run"
    flags = run, "--init-from", finished / "weights" / "seed_3.safetensors"
    assert command(*flags) == 0
    expected = without_seconds(run)
    for path in run.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert command(*flags) == 0 and without_seconds(run) == expected


def test_weights_of_another_network_are_rejected(finished, command, tmp_path, capsys):
    weights = read_weights(finished / "weights" / "seed_3.safetensors")[0]
    kernel = weights["conv2.kernel"]
    without = {name: array for name, array in weights.items() if name != "conv2.kernel"}
    wrong = {
        "conv2.kernel is missing": without,
        "conv3.kernel is not an array of the network": weights | {"conv3.kernel": kernel},
        "conv2.kernel has the shape [6, 6, 4, 9] instead of [6, 6, 4, 10]": without
        | {"conv2.kernel": kernel[..., :9]},
        "conv2.kernel contains values that are NaN or infinite": without
        | {"conv2.kernel": kernel * np.nan},
        "conv2.kernel is int64; save it as float32": without | {"conv2.kernel": kernel.astype(int)},
    }
    run = tmp_path / "run"
    for message, arrays in wrong.items():
        file = save(arrays, tmp_path / "wrong.safetensors")
        assert command(run, "--init-from", file) == 2
        error = capsys.readouterr().err
        assert f"wrong.safetensors does not fit the network: {message}" in error
    assert command(run, "--init-from", tmp_path / "nothing") == 1
    (tmp_path / "text").write_text("text")
    assert command(run, "--init-from", tmp_path / "text") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'nothing'} does not exist" in first
    assert "cannot be read as safetensors" in second
    assert not run.exists()
