"""The command `verify`."""

import json
import resource
import shutil
import signal
import tempfile

import pytest
from runs_in_parts import stop_in

from jaxdrill.data import digits as digits_module
from jaxdrill.main import main
from jaxdrill.runs import group

NOTHING = "Nothing was kept. Run it again from the start."

few = pytest.mark.usefixtures("few_digits", "compiled_once")


@few
def test_verify_finds_equal_results(finished, capsys, monkeypatch):
    assert main(["verify", str(finished)]) == 0
    first, second, *lines, said = capsys.readouterr().out.splitlines()
    assert first == f"{finished}: checking 2 epoch(s) of seed(s) 3, 4"
    assert second == f"{finished}: training without interruption"
    assert lines == [
        f"{finished}: training again, stopped and resumed ({n})" for n in range(1, len(lines) + 1)
    ]
    assert said.startswith("2 epoch(s) of seed(s) 3, 4: the same bits, stopped and resumed ")
    assert said.endswith(" times; they are the run's own numbers") and " resumed 0 " not in said
    digits = digits_module.load_arrays()
    monkeypatch.setattr(digits_module, "load_arrays", lambda: (255 - digits[0], *digits[1:]))
    assert main(["verify", str(finished), "--epochs", "1"]) == 0
    assert "the run's own numbers differ: it was made by " in capsys.readouterr().out


@few
def test_verify_finds_a_state_that_is_not_restored(finished, capsys, monkeypatch):
    """The momentum is set to zero, as if it had not been saved."""
    original = group.checkpoints.select

    def forgetful(*arguments):
        state = original(*arguments)
        state.opt_state[0].trace["conv1"]["kernel"][:] = 0
        return state

    monkeypatch.setattr(group.checkpoints, "select", forgetful)
    assert main(["verify", str(finished), "--epochs", "1"]) == 3
    assert "differ in rows and state" in capsys.readouterr().err


def test_verify_rejects_other_folders(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 1
    assert "is not a run folder: config.json is missing" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[")
    assert main(["verify", str(tmp_path)]) == 1
    assert main(["verify", str(tmp_path), "--epochs", "0"]) == 2


@few
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_verify_can_be_interrupted(finished, monkeypatch, tmp_path, capsys, number, code):
    """The message does not suggest to resume, because the folder is deleted."""
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}")
    stop_in(monkeypatch, 2, number)
    assert main(["verify", str(finished)]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"jaxdrill: verify was interrupted. {NOTHING}"
    assert not list(tmp_path.iterdir()), "the temporary folder is deleted"


@few
def test_verify_reports_a_loss_that_is_not_finite(finished, tmp_path, capsys):
    """The message does not suggest to restart in the folder, which is deleted."""
    run = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 1e30
    (run / "config.json").write_text(json.dumps(config | {"seeds": 1}))
    assert main(["verify", f"{run}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxdrill: verify could not train: the loss of seed 3 is nan by step ")
    assert line.endswith(f"learning rate 1e+30. {NOTHING}")


@few
def test_verify_reports_a_file_that_cannot_be_written(finished, capsys):
    """The system limits the size of files to less than a checkpoint's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        assert main(["verify", str(finished)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert error.startswith("jaxdrill: verify could not train: [Errno 27] File too large: '")
    assert error.endswith(f".safetensors'. {NOTHING}\n") and error.count("\n") == 1
