"""The command `jaxdrill report` and the files that it writes."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image
from runs_on_disk import CURVES, write_run, write_trained

import jaxdrill
from jaxdrill.main import main
from jaxdrill.page.__main__ import main as page_main
from jaxdrill.report import __main__ as report


@pytest.fixture(scope="module")
def written(shared_drill, tmp_path_factory):
    """The folder of a report that a process of the command wrote."""
    folder = tmp_path_factory.mktemp("report")
    command = [sys.executable, "-m", "jaxdrill.report", shared_drill, "--out", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'report.html'} and {folder / 'report.md'}\n"
    return folder


def test_the_page_is_one_file_without_scripts_and_links(written):
    page = (written / "report.html").read_text()
    assert len(page) < 5e6
    assert not re.search(r"<script|<link|url\(http|src=\"http|href=\"(?!#)", page)
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]+">', page)
    assert len(pictures) == page.count("<img") > 10
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).verify()
    assert page.count("<svg") == 2 + 4 + 1  # The ladder is drawn in two widths.
    assert not re.search(r"#0a0b0\d", page)  # Every placeholder colour was replaced.
    targets = re.findall(r'href="#([^"]+)"', page)
    assert len(targets) >= 6 and all(f'id="{target}"' in page for target in targets)


def test_the_markdown_contains_the_same_tables(written):
    text = (written / "report.md").read_text()
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "Target, result, analysis",
        "Did the step help?",
        "Misclassified images",
        "Details of step_2",
        "Details of step_3",
        "Details of step_4",
        "Details of step_5",
        "How it was measured",
    ]
    assert "<img" not in text and "| step_5 | step_4 | 3 | +0.467 |" in text


def test_the_same_runs_give_the_same_report(written, shared_drill, tmp_path):
    assert report.main([str(shared_drill), "--out", str(tmp_path)]) == 0
    for name in ("report.html", "report.md"):
        assert (tmp_path / name).read_text() == (written / name).read_text()


def test_a_single_seed_on_digits(tmp_path, capsys):
    write_run(tmp_path / "run", "2", {7: [0.98]}, data="digits")
    assert report.main([str(tmp_path / "run")]) == 0
    caveat = f"{tmp_path / 'run'} has a single seed: the spread over seeds is unknown"
    assert caveat in capsys.readouterr().err
    for name in ("report.md", "report.html"):
        text = (tmp_path / "run" / name).read_text()
        sentence = "A single seed shows neither the spread over seeds nor whether a change helped."
        assert sentence in text
        # These words belong to MNIST or to several seeds.
        assert not re.search(r"99\.4|disputed|notebook|overfit|of the seeds have|†", text)
    page = (tmp_path / "run" / "report.html").read_text()
    links = re.findall(r'<a href="#([^"]+)"', page)
    # There is no comparison, and so no link to one.
    assert links == ["d1-runs", "d1-curves", "d1-wrong", "d1-details", "measured"]
    assert all(f'id="{link}"' in page for link in links)


def test_datasets_splits_and_epochs_beside_each_other(tmp_path, monkeypatch, capsys):
    """Without arguments, `runs` is reported: one part per dataset, MNIST's test set first."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "step_4_digits", "4", CURVES, data="digits")
    write_run(tmp_path / "runs" / "step_4", "4", CURVES)
    longer = {seed: [*curve, curve[-1] + 0.001] for seed, curve in CURVES.items()}
    write_run(tmp_path / "runs" / "long", "4", longer)
    write_run(tmp_path / "runs" / "held_out", "4", CURVES, split="validation")
    assert report.main([]) == 0
    assert capsys.readouterr().out == "runs/report.html and runs/report.md\n"
    text = (tmp_path / "runs" / "report.md").read_text()
    assert text.startswith("# The drill on mnist, digits, mnist (validation, 1,000 images)\n")
    names = ("mnist", "digits", "mnist (validation, 1,000 images)")
    parts = [text.index(f"\n## {name}\n") for name in names]
    assert parts == sorted(parts)
    assert "| step_4 (long: epochs 4) | step_4 (epochs 3) | 3 | +0.100 |" in text
    assert "| step | seeds | validation % | change | verdict |" in text


def test_missing_pictures_and_missing_augmentation_have_different_messages(tmp_path):
    missing = write_run(tmp_path / "run", "4", CURVES)
    plain = write_run(tmp_path / "plain", "2", CURVES)
    (missing / "images.npz").unlink()
    expected = "No run in this report kept its images: images.npz is missing."
    assert expected in jaxdrill.write_report([missing]).read_text()
    expected = "No run in this report that kept its images uses augmentation."
    assert expected in jaxdrill.write_report([plain]).read_text()


def test_detect_adds_the_number_of_seeds(shared_drill, written, tmp_path):
    assert report.main([str(shared_drill), "--detect", "0.5", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    headers = "smallest detectable (percentage points) | seeds to detect 0.5 percentage points"
    assert f"| {headers} | verdict |" in text
    # The differences between steps 5 and 4 have a standard deviation of 0.0577 percentage points,
    # for which three seeds are enough.
    assert "| 0.0051 | 0.0051 | 0.188 | 3 | helped |" in text
    assert "seeds to detect" not in (written / "report.md").read_text()


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: (run / "run.json").write_text("{"),
        lambda run: (run / "metrics.jsonl").write_text(""),
    ],
    ids=["damaged", "unfinished"],
)
def test_unfinished_and_damaged_runs_in_a_folder_are_skipped_with_a_warning(drill, capsys, damage):
    """This applies to report, check and page. A bad run that is passed itself is an error."""
    bad = drill / "step_4"
    damage(bad)
    for step in "45":  # `page` needs weights.
        write_trained(drill / f"step_{step}", step, [1])
    for run in ("step_2", "step_3"):
        shutil.rmtree(drill / run)
    commands = [
        lambda *runs: report.main([*runs]),
        lambda *runs: main(["check", *runs, "--min-accuracy", "0.5"]),
        lambda *runs: page_main([*runs, "--out", str(drill / "page.html")]),
    ]
    for command in commands:
        assert command(str(drill)) == 0
        error = capsys.readouterr().err
        assert error.startswith("jaxdrill: warning: ") and f"{bad}" in error.split("\n")[0]
        assert command(str(bad)) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"jaxdrill: {bad}") and error.count("\n") == 1
    shutil.rmtree(drill / "step_5")
    for command in commands:
        assert command(str(drill)) == 1
        error = capsys.readouterr().err
        assert "no finished run" in error.lower() and f"{bad}" in error


def test_text_from_files_is_not_markup(tmp_path):
    path = write_run(tmp_path / "<b>run", "2", CURVES, processor="<script>alert(1)</script> | x\ny")
    goal = "<img src=x onerror=alert(1)> | `a<b`"
    config = json.loads((path / "config.json").read_text()) | {"goal": goal}
    (path / "config.json").write_text(json.dumps(config))
    page = jaxdrill.write_report([path]).read_text()
    assert "<img src=x" not in page and "<script" not in page and "<b>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt; | " in page
    text = (path / "report.md").read_text()
    assert "<img" not in text and "<script" not in text and "&lt;/script&gt; \\| x y" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "run folder runs"),
        (["nowhere"], 1, "run folder nowhere"),
        (["."], 1, "config.json"),
        (["--output", "x", "nowhere"], 2, "--output is unknown; did you mean --out?"),
        (["nowhere", "--detect", "0"], 2, "0 is not a number above 0 and up to 100"),
        (["a/step_2", "b/step_3"], 2, "The runs are in different folders. Pass --out"),
    ],
)
def test_wrong_usage(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("jaxdrill: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
