"""Archive run folders (`--restart`), and leave the files of other programs unchanged."""

import pytest
from runs_in_parts import OTHER_RATE, both, contents

from jaxdrill.runs import reader

pytestmark = pytest.mark.usefixtures("few_digits", "compiled_once")


def test_restart_renames_the_existing_run_folder(copy, command, capsys):
    before = contents(copy)
    flags = copy, "--seed", 3, *OTHER_RATE
    assert command(*flags) == 2
    for number in (1, 2):
        assert command(*flags, "--restart") == 0
        assert f"{copy} is now {copy}.old_{number}" in capsys.readouterr().err
    archive = copy.with_name(f"{copy.name}.old_1")
    after = {name.replace(f"{archive}/", f"{copy}/"): c for name, c in contents(archive).items()}
    assert after == before
    assert reader.read(copy).config.optimizer.learning_rate == 1e-30
    assert reader.find([copy.parent]) == [(copy, True)], "a report contains each run once"
    # Messages suggest to rerun the recorded command, which must not start over.
    assert "--restart" not in (copy / "run.json").read_text()


@pytest.mark.parametrize(
    "name",
    ["thesis.txt", "config.json", "checkpoints/epoch_1.pt", "checkpoints/seed_1/mine.safetensors"],
)
def test_restart_does_not_rename_other_folders(command, tmp_path, capsys, name):
    """Even if they contain a lock, or files whose names are those of a run."""
    mine = tmp_path / "mine"
    file = mine / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    (mine / ".lock").touch()
    before = contents(tmp_path)
    assert command(mine, "--restart") == 2
    message = "is not a run folder, so --restart does not rename it. Choose another --workdir."
    assert capsys.readouterr().err == f"jaxdrill: {mine} {message}\n"
    assert contents(tmp_path) == before


def test_restart_of_a_missing_or_empty_folder_trains_there(command, tmp_path):
    assert command(tmp_path / "new", "--restart", "--epochs", 1) == 0
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".lock").touch()
    assert command(tmp_path / "empty", "--restart", "--epochs", 1) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "config.json", "images.npz", "weights/seed_1.safetensors"]
)
def test_training_does_not_replace_files_of_other_programs(command, tmp_path, capsys, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"loss": 1}')
    assert command(tmp_path) == 2
    assert capsys.readouterr().err == (
        f"jaxdrill: {tmp_path} is not a run folder, but contains {name.split('/')[0]}, which "
        "training would replace. Choose another --workdir.\n"
    )
    assert (tmp_path / name).read_text() == '{"loss": 1}'


def test_training_removes_only_the_temporary_files_of_jaxdrill(copy, command):
    ours = [
        ".jaxdrill-run.json.4711.tmp",
        "metrics.jsonl.4711.tmp",
        "weights/seed_3.safetensors.4711.tmp",
        "weights/.jaxdrill-seed_3.safetensors.4711.tmp",
        "predictions/seed_12.npz.4711.tmp",
        "checkpoints/seeds_3_to_4/step_3.safetensors.4711.tmp",
    ]
    users = [
        "notes.tmp",
        "notes.2024.tmp",
        "weights/mine.2024.tmp",
        "seed_3.pdf.1.tmp",
        "notes/run.json.4711.tmp",
        "notes/.jaxdrill-run.json.4711.tmp",
        "x.jaxdrill-run.json.4711.tmp",
        ".jaxdrill-notes.tmp",
    ]
    (copy / "notes").mkdir()
    for name in ours + users:
        (copy / name).write_text(name)
    assert command(*both(copy)) == 0
    assert [name for name in ours if (copy / name).exists()] == []
    assert [(copy / name).read_text() for name in users] == users
