"""The command, its tables and sentences, and the page in a real browser."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import BETTER, CURVES, ROOT, write_run
from PIL import Image

from jaxdrill import report, statistics, tables
from jaxdrill.folder import read, read_all
from jaxdrill.main import main


def test_the_readmes_tables_are_what_the_results_say():
    readme = (ROOT / "README.md").read_text()
    shown = report.summary([ROOT / "results"]).split("\n\n")
    assert len(shown) == 2 and all(table in readme for table in shown)
    about = read_all([ROOT / "results"])[0].about
    assert about["git_commit"][:7] in readme
    assert all(f"{name} {about['versions'][name]}" in readme for name in ("jax", "flax", "optax"))


def test_results_hold_no_images():
    assert not list((ROOT / "results").glob("*/images.npz"))


def test_summary(drill):
    assert report.summary([drill / "step_2"]).splitlines()[2:] == [
        "| step_2 | mnist | 9,606 | 3 | 3 | 99.20 ± 0.20 | 99.00 to 99.40 | 99.20 ± 0.20 | 98.85 (2) |"
    ]
    found = report.summary([drill]).splitlines()
    assert (
        "| step_3 | step_2 | 2 | +0.000 | - | - | - | no evidence at 2 seeds: every seed differs by as much |" in found
    )
    assert any(line.startswith("| step_5 | step_4 | 3 | +0.467 | +0.323 to +0.610 | 0.0051 | ") for line in found)


def test_one_seed_says_what_cannot_be_concluded(tmp_path, capsys):
    write_run(tmp_path / "run", "2", {7: [0.98]}, data="digits")
    assert report.main([str(tmp_path / "run")]) == 0
    assert f"{tmp_path / 'run'} has one seed: its spread is not known" in capsys.readouterr().err
    text = (tmp_path / "run" / "report.md").read_text()
    assert "One seed: neither its spread nor a difference can be concluded." in text
    assert "99.4" not in text and "disputed" not in text  # those are MNIST's


def test_caveats_name_the_folder(drill, tmp_path):
    (drill / "step_4" / "images.npz").unlink()
    session = {"versions": {"jax": "0.9"}, "devices": ["cpu:0 cpu"], "processor": "Abacus", "git_commit": None}
    other = write_run(
        drill / "step_5_exponential", "5_exponential", BETTER, earlier_sessions=[session], processor="Other"
    )
    runs = read_all([drill])
    assert report.caveats(runs) == [
        f"{drill / 'step_3'} has 2 seeds, others 3: compared over those that both have.",
        f"{other} was trained in sessions of different versions or machines (last section).",
        f"No images.npz is in {drill / 'step_4'}: pictures of digits are left out.",
        "The runs were made by different versions or machines (last section).",
    ]
    rows = tables.sessions_table(runs).rows
    assert [row[0] for row in rows] == [
        "step_2",
        "step_3",
        "step_4",
        "step_5",
        "step_5_exponential",
        "step_5_exponential",
    ]
    assert "jax 0.9" in rows[4][2]


def test_which_step_fixed_an_image(tmp_path):
    """Of 3 seeds wrong in step 2: image 0 by all in both steps, 1 by all and then none, 2 by one and then none, 3 by
    none and then one."""
    runs = [read(write_run(tmp_path / f"step_{step}", step, {s: [0.99] for s in (1, 2, 3)})) for step in ("2", "3")]
    for run, wrong in zip(runs, ([(0, 3), (1, 3), (2, 1)], [(0, 3), (3, 1)]), strict=True):
        run.predicted[:] = run.labels
        for image, seeds in wrong:
            run.predicted[:seeds, image] = 9
    text, _, table = report._explorer(statistics.evidence(runs))
    assert text == "4 of 1,000 test images are wrong in some seed, 1 always, 1 fixed by step_3, 2 sometimes."
    assert [row[1:] for row in table.rows] == [
        ["0", "0", "always", "`999`", "`999`"],
        ["1", "1", "fixed by step_3", "`999`", "`···`"],
        ["2", "2", "sometimes", "`9··`", "`···`"],
        ["3", "3", "sometimes", "`···`", "`9··`"],
    ]


def test_worst_images_come_by_the_probability_of_their_label(tmp_path):
    run = read(write_run(tmp_path / "run", "2", {1: [0.995], 2: [0.995]}))
    (found,) = statistics.evidence([run])
    pictures = report._worst(found)
    wrong = np.flatnonzero((run.predicted != run.labels).any(axis=0))
    assert [int(p.caption.split(":")[0]) for p in pictures] == [2, 3, 4, 5, 1, 6]  # by both seeds, then by one
    assert set(wrong) == {1, 2, 3, 4, 5, 6}
    assert pictures[0].caption == "2: 2, not 3 (100 %)" and pictures[4].caption == "1: 1, not 2 (50 %)"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "the following arguments are required: RUN"),
        (["nowhere"], 1, "there is no run folder nowhere"),
        (["."], 1, ". is no run folder: it holds no config.json"),
        (["--output", "x", "nowhere"], 2, "unrecognized arguments: --output"),
        (["a/step_2", "b/step_3"], 2, "the runs are in different folders; say with --out"),
    ],
)
def test_wrong_usage(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("jaxdrill: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("minimum", "more", "code", "message"),
    [
        ("0.98", [], 0, "99.20 % over 3 seed(s), above 98 % (p = 0.0046)"),
        ("0.98", ["--alpha", "0.001"], 3, "not shown to be above 98 % (p = 0.0046, alpha = 0.001)"),
        ("0.994", [], 3, "not shown to be above 99.4 %"),
        ("99.4", [], 2, "argument --min-accuracy: 99.4 is no number from 0 to 1"),
        ("x", [], 2, "x is no number"),
    ],
)
def test_check(tmp_path, capsys, minimum, more, code, message):
    folder = write_run(tmp_path / "run", "2", CURVES)
    assert main(["check", str(folder), "--min-accuracy", minimum, *more]) == code
    said = capsys.readouterr()
    assert message in said.out + said.err and (said.out + said.err).count("\n") == 1


def test_check_of_runs_that_cannot_tell(tmp_path, capsys):
    one, equal = (
        write_run(tmp_path / "one", "2", {1: [0.995]}),
        write_run(tmp_path / "equal", "2", {1: [0.995], 2: [0.995]}),
    )
    for folder, why in ((one, "one seed has no spread"), (equal, "the seeds are all equal")):
        assert main(["check", str(folder), "--min-accuracy", "0.9"]) == 3
        assert f"cannot be told: {why}; train more --seeds" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none"), "--min-accuracy", "0.9"]) == 1
    assert main(["check", str(one)]) == 2
    assert "--min-accuracy" in capsys.readouterr().err


def test_the_page_stands_alone(drill):
    """As a process: one file without scripts or addresses, each picture whole, in Markdown the same tables."""
    done = subprocess.run([sys.executable, "-m", "jaxdrill.report", drill], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (drill / "report.html").read_text()
    assert len(page) < 5e6
    assert not re.search(r"<script|<link|url\(http|src=\"http|href=\"(?!#)", page)
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]+">', page)
    assert len(pictures) == page.count("<img") > 10
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).verify()
    assert page.count("<svg") == 1 + 4 + 1
    assert not re.search(r"#0a0b0\d", page)  # every stand-in became the page's colour
    text = (drill / "report.md").read_text()
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "Target, result, analysis", "The ladder of steps", "Did the step help?", "Learning curves", "Learning rate",
        "What augmentation does", "Which images are wrong", "step_2", "step_3", "step_4", "step_5",
        "How it was measured",
    ]  # fmt: skip
    assert "<img" not in text and "| step_5 | step_4 | 3 | +0.467 |" in text
    first = page
    assert report.main([str(drill)]) == 0
    assert (drill / "report.html").read_text() == first


def test_the_augmentation_is_the_runs_own(drill):
    blocks = report._augmentation(read_all([drill]))
    assert blocks[0].startswith("step_4: by up to 7 degrees") and len(blocks) == 2
    pixels = blocks[1].picture.pixels
    assert pixels.shape == (3 * 28, 12 * 28)
    run = read(drill / "step_4")
    np.testing.assert_array_equal(pixels[:28, :28], run.images[2])
    assert not np.array_equal(pixels[:28, 28:56], run.images[2])


CHECK = """<script>
const images = [...document.images];
Promise.all(images.map(i => i.decode().catch(() => 0))).then(() => {
  document.title = JSON.stringify({
    images: images.length, missing: images.filter(i => !i.naturalWidth).length,
    drawings: [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().height > 50).length,
    page: document.documentElement.scrollWidth, window: window.innerWidth,
    dark: getComputedStyle(document.body).backgroundColor,
  });
});
</script></body>"""


@pytest.mark.parametrize("width", [1200, 500])
def test_in_a_browser(drill, tmp_path, width):
    """No picture is missing, and the page itself never scrolls sideways."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome to render the page with")
    assert report.main([str(drill)]) == 0
    page = (drill / "report.html").read_text()
    (tmp_path / "checked.html").write_text(page.replace("</body>", CHECK))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               f"--window-size={width},2000", "--virtual-time-budget=10000", "--dump-dom"]  # fmt: skip
    done = subprocess.run([*command, (tmp_path / "checked.html").as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr
    seen = json.loads(title[1].replace("&quot;", '"'))
    assert seen["images"] == page.count("<img") and seen["missing"] == 0
    assert seen["drawings"] == 6
    assert seen["page"] <= seen["window"] <= width
