"""Users without a home, files in unusual places, and environment variables of JAX."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT, idx_bytes, shell
from runs_in_parts import both, without_seconds

import jaxdrill
from jaxdrill import data, files
from jaxdrill.array_files import digest
from jaxdrill.array_files import read as read_tensors
from jaxdrill.export import __main__ as export
from jaxdrill.main import main
from jaxdrill.page import __main__ as page
from jaxdrill.predict import __main__ as predict
from jaxdrill.report import __main__ as report

NOT_UTF_8 = os.fsdecode(b"caf\xe9")


# Users and folders
@pytest.fixture
def nobody(tmp_path) -> list[str]:
    """Return a command prefix that runs as a user without an entry in /etc/passwd.

    The user may read all files.
    """
    variables = ["env", "-i", f"PATH={os.environ['PATH']}", f"PYTHONPATH={ROOT}"]
    command = [
        "setpriv",
        "--reuid=54321",
        "--regid=54321",
        "--clear-groups",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
        *variables,
    ]
    if (
        not shutil.which("setpriv")
        or subprocess.run([*command, "true"], capture_output=True).returncode
    ):
        pytest.skip("only root can become another user")
    os.chown(tmp_path, 54321, 54321)
    return command


@pytest.mark.parametrize(
    "home",
    [[], ["HOME=/dev/null"], pytest.param(["HOME=/nonexistent"], marks=pytest.mark.slow)],
)
def test_data_without_a_home(nobody, home, tmp_path):
    code = "from jaxdrill import data; from jaxdrill.errors import exit_code\n"
    code += "exit_code(lambda: print(data.load('auto', offline=True).name))"
    done = subprocess.run(
        [*nobody, *home, sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    cache = (
        "a cache (the home folder is missing)"
        if not home
        else f"the cache {home[0][5:]}/tensorflow_datasets"
    )
    assert done.stdout == "digits\n"
    assert done.stderr.startswith(
        f"jaxdrill: warning: mnist is not in {cache}, and --offline forbids a download: "
    )
    assert done.stderr.count("\n") == 1


def test_a_dataset_is_fetched_without_a_cache(small_files, monkeypatch, capsys):
    """It is downloaded into a temporary folder, which is removed."""
    import tensorflow_datasets as tfds

    folders = []

    class Manager:
        def __init__(self, download_dir, **_):
            folders.append(download_dir)

        def download(self, urls):
            return {key: shutil.copy(small_files / data.FILES[key], folders[0]) for key in urls}

    monkeypatch.setattr(tfds.download, "DownloadManager", Manager)
    monkeypatch.setattr(data.download, "check_reachable", lambda url: None)
    monkeypatch.setenv("TFDS_DATA_DIR", "/dev/null/cache")
    assert len(data.load("mnist").test_labels) == 20
    assert not Path(folders[0]).exists() and capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("home", [[], ["HOME=/nonexistent"]])
def test_commands_without_a_home(nobody, home, tiny_recipe, trained, tmp_path):
    commands = [
        ["main", "--step", f"{tiny_recipe}", "--workdir", "run"],
        ["report", "run"],
        ["page", "run"],
        ["export", "run", "--to", "safetensors"],
    ]
    for command in commands:
        done = subprocess.run(
            [*nobody, *home, sys.executable, "-m", f"jaxdrill.{command[0]}", *command[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert all(line.startswith("jaxdrill: ") for line in done.stderr.splitlines()), done.stderr
    assert {"page.html", "run", "run_seed_1.safetensors"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_folders_whose_names_are_not_utf_8(finished, tmp_path, capsys):
    """The page names the folders of two runs of a recipe. The report names a run with one seed."""
    folder = tmp_path / NOT_UTF_8
    for name in ("one", "two"):
        shutil.copytree(finished, folder / name)
    run = json.loads((folder / "one" / "run.json").read_text())
    (folder / "one" / "run.json").write_text(
        json.dumps(run | {"command": ["python", "--workdir", f"{folder}"]})
    )
    (folder / "one" / "images.npz").unlink()
    assert report.main([f"{folder / 'one'}"]) == 0
    assert (
        page.main([f"{folder / 'one'}", f"{folder / 'two'}", "--out", f"{folder / 'page.html'}"])
        == 0
    )
    assert (
        export.main(
            [f"{folder / 'one'}", "--to", "safetensors", "--out", f"{folder / 'x.safetensors'}"]
        )
        == 0
    )
    assert main(["check", f"{folder / 'one'}", "--min-accuracy", "1"]) == 3
    said = capsys.readouterr()
    assert (
        f"{tmp_path}/caf\\udce9/one/report.html and {tmp_path}/caf\\udce9/one/report.md\n"
        in said.out
    )
    assert f"{tmp_path}/caf\\udce9/page.html: " in said.out and "Traceback" not in said.err
    assert "caf\\udce9" in (folder / "one" / "report.html").read_text("utf-8")
    assert "caf\\udce9" in (folder / "page.html").read_text("utf-8")


def test_training_into_a_folder_whose_name_is_not_utf_8(
    few_digits, tiny_recipe, finished, tmp_path, capsys
):
    run = tmp_path / NOT_UTF_8
    for _ in range(2):
        assert main([f"{flag}" for flag in ("--step", tiny_recipe, "--workdir", *both(run))]) == 0
        assert capsys.readouterr().out.endswith(
            f"report: jaxdrill report '{tmp_path}/caf\\udce9'\n"
        )
    assert without_seconds(run) == without_seconds(finished)
    assert report.main([f"{run}"]) == 0


# Output files


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "target").chmod(0o640)
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "second").symlink_to("link")
    (tmp_path / "dangling").symlink_to("new/target")
    assert files.write_text(tmp_path / "second", "new") and files.write_text(
        tmp_path / "dangling", "other"
    )
    assert (tmp_path / "link").is_symlink() and (tmp_path / "second").is_symlink()
    assert (tmp_path / "target").read_text() == "new" and (
        tmp_path / "new" / "target"
    ).read_text() == "other"
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o640
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dangling", "link", "new", "second", "target"]


def test_a_file_keeps_its_owner(tmp_path):
    if os.getuid():
        pytest.skip("only root can write files of other users")
    (tmp_path / "file").write_text("old")
    os.chown(tmp_path / "file", 54321, 54322)
    files.write_text(tmp_path / "file", "new")
    kept = (tmp_path / "file").stat()
    assert (kept.st_uid, kept.st_gid, (tmp_path / "file").read_text()) == (54321, 54322, "new")


def test_a_pipe_is_written_into(trained, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    received = []
    for write in (page.main, export.main):
        reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
        reader.start()
        more = (
            ["--to", "onnx"] if write is export.main else []
        )  # safetensors orders its texts freely
        assert write([f"{trained}", "--out", f"{tmp_path / 'pipe'}", *more]) == 0
        reader.join()
        assert (tmp_path / "pipe").is_fifo()
        assert write([f"{trained}", "--out", f"{tmp_path / 'file'}", *more]) == 0
        assert (tmp_path / "file").read_bytes() == received[-1] != b""
    assert capsys.readouterr().out.count("\n") == 2, "only of the files"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_the_picture_of_predict_follows_a_link(trained, tmp_path):
    (tmp_path / "images").write_bytes(idx_bytes(np.zeros((2, 28, 28), np.uint8)))
    (tmp_path / "link.png").symlink_to("target.png")
    assert (
        predict.main([f"{trained}", f"{tmp_path / 'images'}", "--show", f"{tmp_path / 'link.png'}"])
        == 0
    )
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "target.png").read_bytes()[
        :4
    ] == b"\x89PNG"
    assert predict.main([f"{trained}", f"{tmp_path / 'images'}", "--show", f"{tmp_path}"]) == 2


def test_a_device_is_never_replaced(tmp_path):
    try:
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (tmp_path / "null").write_bytes(b"x")
    except OSError:
        pytest.skip("only root can make a device")
    (tmp_path / "link").symlink_to("null")
    for name in ("null", "link"):
        assert not files.write_bytes(tmp_path / name, b"content")
    assert (tmp_path / "null").is_char_device() and (tmp_path / "link").is_symlink()


# JAX's variables


@pytest.mark.slow
def test_64_bits_change_nothing(few_digits, tiny_recipe, finished, tmp_path, digits):
    predicted = {}
    for wide in (False, True):
        jax.config.update("jax_enable_x64", wide)
        try:
            folder = tmp_path / f"{wide}"
            predicted[wide] = jaxdrill.load(finished, 3)(digits.test_images[:50, ..., 0])
            export.export(finished, "stablehlo", 3, folder / "program")
            jaxdrill.write_report([finished], folder)
            if wide:
                assert (
                    main(
                        [
                            f"{flag}"
                            for flag in ("--step", tiny_recipe, "--workdir", *both(folder / "run"))
                        ]
                    )
                    == 0
                )
            assert jax.numpy.ones(1).dtype == (np.float64 if wide else np.float32), (
                "the caller's setting stays"
            )
        finally:
            jax.config.update("jax_enable_x64", False)
    assert predicted[True].dtype == np.float32 and np.array_equal(predicted[True], predicted[False])
    for name in ("program", "report.html", "report.md"):
        assert (tmp_path / "True" / name).read_bytes() == (tmp_path / "False" / name).read_bytes()
    trained = tmp_path / "True" / "run"
    assert without_seconds(trained) == without_seconds(finished)
    for name in ("weights/seed_3.safetensors", "weights/seed_4.safetensors"):
        assert digest(read_tensors(trained / name)[0], {}) == digest(
            read_tensors(finished / name)[0], {}
        )


@pytest.mark.slow
def test_64_bits_from_the_environment(tiny_recipe, tmp_path):
    for bits in "01":
        command = f"@main --step {tiny_recipe} --workdir run_{bits}"
        assert shell(command, tmp_path, JAX_ENABLE_X64=bits)[::2] == (0, "")
    assert without_seconds(tmp_path / "run_1") == without_seconds(tmp_path / "run_0")
    files = [tmp_path / f"run_{bits}" / "weights" / "seed_1.safetensors" for bits in "01"]
    assert len({digest(read_tensors(file)[0], {}) for file in files}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["predict {} image", "export {} --to safetensors", "report {}", "page {}"]
)
def test_other_commands_without_the_requested_platform(command, trained, tmp_path):
    (tmp_path / "image").write_bytes(idx_bytes(np.zeros((1, 28, 28), np.uint8)))
    code, _, err = shell(f"@{command.format(trained)}", tmp_path, JAX_PLATFORMS="cuda")
    reason = (
        "no plugin for it is installed. Install JAX for that platform, or set JAX_PLATFORMS=cpu."
    )
    assert (code, err) == (1, f"jaxdrill: JAX cannot use the platform cuda: {reason}\n")
