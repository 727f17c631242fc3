"""Hostile and damaged files, names and texts. `python tests/soak/run.py` tests more of them."""

import io
import json
import os
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY, idx_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs_in_parts import contents
from runs_on_disk import CURVES, write_run
from soak import fuzz
from soak.corpus import corpus

from jaxdrill import array_files, config, files
from jaxdrill.array_files import read_npz
from jaxdrill.errors import RunError, UsageError, print_error, printable, say
from jaxdrill.export import __main__ as export
from jaxdrill.main import main
from jaxdrill.page import __main__ as page_command
from jaxdrill.predict import __main__ as predict
from jaxdrill.predict import read_picture
from jaxdrill.report import __main__ as report
from jaxdrill.report import analysis, render, summary
from jaxdrill.report import text as report_text
from jaxdrill.runs import provenance, reader
from jaxdrill.runs.folder import RERUN, START_OVER

BAD = [
    "<script>alert(1)</script>",
    "\x1b[2J\x1b]0;x\x07",
    "a\u202eb",
    "[x](javascript:a)",
    "| a | b |",
    "\r\n\n# x",
    "`<b>`",
    "{{ 7 * 7 }}",
    "\ud800",
    "![x](http://x/y)",
]
TEXT = st.text() | st.sampled_from(BAD)
KEYS = ["versions", "devices", "command", "seconds", "split", "parameters", "git_commit"]
KEYS += ["earlier_sessions", "format", "dataset"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
quick = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def test_damaged_files_of_every_kind(tmp_path, monkeypatch, capsys):
    """Two of each kind are read correctly or rejected with a one-line error."""
    monkeypatch.setenv("TFDS_DATA_DIR", f"{tmp_path / 'cache'}")
    monkeypatch.setattr(
        provenance, "git_commit", lambda package: None
    )  # It takes most of the time.
    r = random.Random(0)
    for name, change, read in corpus(tmp_path):
        good = (tmp_path / name).read_bytes()
        for _ in range(2):
            (tmp_path / name).write_bytes(damaged := change(good, r))
            assert fuzz.read_one(read) is None, (name, damaged)
        (tmp_path / name).write_bytes(good)
        assert fuzz.read_one(read) is None, name


@pytest.mark.slow
@pytest.mark.parametrize("only", ["readers", "commands"])
def test_files_damaged_at_random(only):
    """Each is read correctly or rejected with one line, within limits of time and memory."""
    fuzz = [
        sys.executable,
        "-W",
        "ignore",
        f"{ROOT / 'tests' / 'soak' / 'fuzz.py'}",
        "--files",
        "500",
        "--only",
        only,
    ]
    done = subprocess.run(fuzz, capture_output=True, text=True)
    assert done.returncode == 0 and '"wrong": []' in done.stdout, done.stdout + done.stderr


def commands(run: Path, out: Path) -> dict[str, Callable[[], int]]:
    """Return the commands that read a run folder by name, except `train` and `verify`."""
    return {
        "report": lambda: report.main([f"{run}", "--out", f"{out}"]),
        "page": lambda: page_command.main([f"{run}", "--out", f"{out / 'page.html'}"]),
        "check": lambda: main(["check", f"{run}", "--min-accuracy", "0.001"]),
        "predict": lambda: predict.main([f"{run}", f"{out / 'images'}"]),
        "export": lambda: export.main(
            [f"{run}", "--to", "safetensors", "--out", f"{out / 'weights'}"]
        ),
    }


OLDER = " was written by another version of jaxdrill (its format is {}, this one reads 3). "
OLDER += f"Use that version to read or resume it. {START_OVER}"
WRONG = f"/run.json is damaged ({{}}). Delete it. {RERUN}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda good: {"format": 3}, WRONG.format("versions: Field required")),
        (lambda good: {}, OLDER.format(1)),
        (lambda good: {"format": None}, OLDER.format(None)),
        (lambda good: [good], WRONG.format("it is not a JSON object")),
        (lambda good: None, WRONG.format("it is not a JSON object")),
        (
            lambda good: good | {"seconds": {}},
            WRONG.format("seconds.data: Field required"),
        ),
        (
            lambda good: good | {"seconds": 3},
            WRONG.format("seconds: Input should be a valid dictionary or instance of Seconds"),
        ),
        (
            lambda good: good | {"devices": []},
            WRONG.format("devices: List should have at least 1 item after validation, not 0"),
        ),
        (
            lambda good: good | {"earlier_sessions": [{}]},
            WRONG.format("earlier_sessions.0.versions: Field required"),
        ),
        (
            lambda good: good | {"parameters": 10**400},
            WRONG.format("parameters: Input should be less than 9223372036854775808"),
        ),
        (
            lambda good: {key: good[key] for key in good if key != "command"},
            WRONG.format("command: Field required"),
        ),
    ],
)
def test_a_damaged_run_json_gives_one_line_in_every_command(
    copy, command, digits, capsys, change, message
):
    """Predict and export need only weights. No command changes the folder."""
    good = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(change(good)))
    (copy.parent / "images").write_bytes(idx_bytes(digits.test_images[:2, ..., 0]))
    before = contents(copy)
    tried = {"train": lambda: command(copy, "--seed", 3, "--seeds", 2, "--epochs", 3)} | commands(
        copy, copy.parent
    )
    for name, work in tried.items():
        capsys.readouterr()
        if name in ("predict", "export"):
            assert (work(), capsys.readouterr().err) == (0, ""), name
        else:
            assert (work(), capsys.readouterr().err) == (1, f"jaxdrill: {copy}{message}\n"), name
    assert contents(copy) == before


@quick
@given(TEXT)
def test_no_text_controls_the_terminal(capsys, text):
    capsys.readouterr()
    print_error(text)
    say(text)
    said = capsys.readouterr()
    assert said.err.count("\n") == said.out.count("\n") == 1
    assert (said.err + said.out).replace("\n", "").isprintable()


@quick
@given(TEXT)
def test_texts_in_a_report_are_escaped(text):
    shown = report_text.markdown_text(text)
    assert shown.isprintable() and "<" not in shown and "](" not in shown
    assert not re.search(r"(?<!\\)\|", shown)
    assert "<" not in re.sub(r"</?code>|<wbr>", "", str(report_text.html_text(text)))


@quick
@given(TEXT, TEXT)
def test_a_recipe_of_any_texts(tmp_path, goal, data):
    """The recipe is accepted unchanged, or rejected with a printable line."""
    recipe = tmp_path / "mine.toml"
    values = json.dumps(goal, ensure_ascii=True), json.dumps(data, ensure_ascii=True)
    recipe.write_text(
        f"goal = {values[0]}\n" + TINY.replace('data = "digits"', f"data = {values[1]}")
    )
    try:
        taken = config.load(str(recipe))
    except UsageError as error:
        assert printable(f"{error}")
        return
    assert taken.goal == goal and goal.isprintable() and re.fullmatch("[a-z0-9_]+", data)


@quick
@given(JSON, st.sampled_from(KEYS))
def test_any_value_in_run_json(tmp_path, value, key):
    run = tmp_path / "run"
    if not run.exists():
        write_run(run, "2", CURVES)
        (run / "good.json").write_text((run / "run.json").read_text())
    good = json.loads((run / "good.json").read_text())
    (run / "run.json").write_text(json.dumps(good | {key: value}))
    try:
        html, markdown = analysis.group_runs([reader.read(run)]), summary([run])
        assert html and "<script" not in markdown
    except RunError as error:
        assert "run" in f"{error}"


def test_a_report_of_hostile_texts(tmp_path):
    """The texts are in the metadata, which the checks of a recipe do not cover."""
    bad = "<script>alert(1)</script>\x1b[2J[x](javascript:alert(1))"
    run = write_run(
        tmp_path / "a [x](y) <b>",
        "2",
        CURVES,
        processor=bad,
        command=["python", bad],
        git_commit=bad,
    )
    html, markdown = render([reader.read(run)])
    for text in (html, markdown):
        assert "<script" not in text and "\x1b" not in text
    assert "](javascript" not in markdown


def test_help_and_dry_run_of_a_hostile_recipe(tmp_path, capsys):
    recipe = tmp_path / "a\x1b[2J.toml"
    recipe.write_text(TINY)
    assert main(["--step", str(recipe), "--dry-run"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])


def test_pipes_and_devices_are_rejected_immediately(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "pipe", "Not a regular file"),
        (Path("/dev/zero"), "Not a regular file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(OSError, match=why):
            files.read_bytes(path)
    (tmp_path / "x.safetensors").symlink_to("/dev/zero")
    with pytest.raises(RunError, match="Not a regular file"):
        array_files.read(tmp_path / "x.safetensors")
    with pytest.raises(RunError, match="Not a regular file"):
        read_picture(tmp_path / "pipe")


def test_a_file_too_large_is_not_read(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)  # sparse
    with pytest.raises(OSError, match="Larger than 268,435,456 bytes"):
        files.read_bytes(tmp_path / "large")


def test_an_npz_member_that_is_not_an_array(tmp_path):
    """NumPy returns the bytes of such a member."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as packed:
        packed.writestr("labels.npy", b"text")
    with pytest.raises(ValueError, match=r"^x\.npz cannot be read \(labels is not an array\)$"):
        read_npz(tmp_path / "x.npz")


def test_no_array_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    packed = io.BytesIO()
    np.savez(packed, labels=np.array([Evil()], dtype=object))
    (tmp_path / "x.npz").write_bytes(packed.getvalue())
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read_npz(tmp_path / "x.npz")
    assert not (tmp_path / "owned").exists()
