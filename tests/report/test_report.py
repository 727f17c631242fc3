"""The commands `report` and `check`, the README's tables, and the page in a real browser."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from runs_on_disk import CURVES, write_run, write_trained

import jaxdrill
import jaxdrill.report
from benchmarks import readme
from jaxdrill.main import main
from jaxdrill.page.__main__ import main as page_main
from jaxdrill.report.page import summary, text_table
from jaxdrill.report.tables import Table
from jaxdrill.runs.reader import read_all

report = sys.modules["jaxdrill.report"]


def test_the_readmes_tables_are_what_the_results_say():
    readme = (ROOT / "README.md").read_text()
    shown = summary([ROOT / "results"]).split("\n\n")
    assert len(shown) == 2 and all(table in readme for table in shown)
    metadata = read_all([ROOT / "results"])[0].metadata
    assert metadata["git_commit"][:7] in readme
    assert all(
        f"{name} {metadata['versions'][name]}" in readme for name in ("jax", "flax", "optax")
    )


FITTING = """\
                     million
step  parameters  operations   last test %
----  ----------  ----------  ------------
a        194,884       52.16  98.93 ± 0.12
b_c        9,606        1.45         99.40"""
CONTINUED = """\
                     million
step  parameters  operations
----  ----------  ----------
a        194,884       52.16
b_c        9,606        1.45

step   last test %
----  ------------
a     98.93 ± 0.12
b_c          99.40"""


@pytest.mark.parametrize(("width", "shown"), [(42, FITTING), (41, CONTINUED)])
def test_a_table_on_a_terminal_is_aligned(width, shown):
    """Numbers to the right, headers wrapped, pictures left out; continued below where the terminal ends."""
    picture = Image.new("L", (1, 1))
    rows = [
        ["a", picture, "194,884", "52.16", "98.93 ± 0.12"],
        ["b_c", picture, "9,606", "1.45", "99.40"],
    ]
    table = Table(["step", "picture", "parameters", "million operations", "last test %"], rows)
    assert text_table(table, width) == shown


def test_the_tables_after_training_fit_and_hold_what_the_markdown_has(drill):
    aligned, markdown = summary([drill], 80), summary([drill])
    assert max(map(len, aligned.splitlines())) <= 80 and "|" not in aligned
    cells = {
        cell
        for line in markdown.splitlines()
        if line.startswith("| step_")
        for cell in line.split(" | ")[1:-1]
    }
    assert len(cells) == 20 and all(cell in aligned for cell in cells)


def test_the_readmes_tables_and_picture_are_made_from_the_results(drill, tmp_path, monkeypatch):
    files = {"RESULTS": drill, "README": tmp_path / "README.md", "PICTURE": tmp_path / "ladder.svg"}
    files |= {
        "MEASURED": ROOT / "results" / "benchmarks" / "cpu.json",
        "SPEED": tmp_path / "speed.md",
    }
    for name, path in files.items():
        monkeypatch.setattr(readme, name, path)
    old = "Before\n\n| step | data | x |\n| --- |\n| old |\n\nbetween\n\n| step | against | x |\n| old |\n\nafter\n"
    files["README"].write_text(old)
    files["SPEED"].write_text("Before\n\n| | jaxdrill | old |\n\nafter\n")
    readme.main()
    speed = (ROOT / "docs" / "speed.md").read_text()
    assert (
        files["SPEED"].read_text().removeprefix("Before\n\n").removesuffix("\n\nafter\n") in speed
    )  # Nobody has changed a figure by hand.
    first, second = summary([drill]).split("\n\n")
    assert files["README"].read_text() == f"Before\n\n{first}\n\nbetween\n\n{second}\n\nafter\n"
    for picture in (files["PICTURE"], ROOT / "docs" / "ladder.svg"):
        text = "".join(
            ElementTree.fromstring(picture.read_text()).itertext()
        )  # it must be XML: pages show it as an image
        assert (
            "step_2" in text
            and "step_5" in text
            and "--ink" in text
            and "prefers-color-scheme" in text
        )


def test_results_hold_no_images():
    assert not list((ROOT / "results").glob("*/images.npz"))


def test_summary(drill):
    assert summary([drill / "step_2"]).splitlines()[2:] == [
        "| step_2 | mnist | 9,606 | 1.45 | 3 | 9.0 | 3 | 99.20 ± 0.20 | 98.70 to 99.70 | 99.20 ± 0.20 | 98.85 (3) |"
    ]
    lines = summary([drill]).splitlines()
    assert "| step_3 | step_2 | 2 | +0.000 | - | - | - | - | inconclusive |" in lines
    assert any(
        line.startswith("| step_5 | step_4 | 3 | +0.467 | +0.323 to +0.610 | 0.0051 | ")
        for line in lines
    )


def test_a_single_seed_on_digits(tmp_path, capsys):
    write_run(tmp_path / "run", "2", {7: [0.98]}, data="digits")
    assert report.main([str(tmp_path / "run")]) == 0
    assert (
        f"{tmp_path / 'run'} has a single seed: the spread over seeds is unknown"
        in capsys.readouterr().err
    )
    for name in ("report.md", "report.html"):
        text = (tmp_path / "run" / name).read_text()
        assert (
            "A single seed shows neither the spread over seeds nor whether a change helped." in text
        )
        assert not re.search(
            r"99\.4|disputed|notebook|overfit|of our seeds|†", text
        )  # MNIST's, or several seeds'
    page = (tmp_path / "run" / "report.html").read_text()
    links = re.findall(r'<a href="#([^"]+)"', page)
    assert links == [
        "d1-runs",
        "d1-curves",
        "d1-wrong",
        "d1-details",
        "measured",
    ]  # no comparison, so no link to one
    assert all(f'id="{link}"' in page for link in links)


def test_datasets_splits_and_epochs_beside_each_other(tmp_path, monkeypatch, capsys):
    """Without arguments, of `runs`: a part for each dataset, MNIST's test first; epochs where they differ."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "step_4_digits", "4", CURVES, data="digits")
    write_run(tmp_path / "runs" / "step_4", "4", CURVES)
    write_run(
        tmp_path / "runs" / "long", "4", {seed: [*c, c[-1] + 0.001] for seed, c in CURVES.items()}
    )
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


def test_pictures_that_were_not_kept_are_told_from_recipes_that_augment_nothing(tmp_path):
    run = write_run(tmp_path / "run", "4", CURVES)
    kept = write_run(tmp_path / "still", "2", CURVES)
    (run / "images.npz").unlink()
    assert (
        "No pictures were kept: no run folder here holds images.npz."
        in jaxdrill.write_report([run]).read_text()
    )
    assert (
        "No run here that kept pictures augments its images."
        in jaxdrill.write_report([kept]).read_text()
    )


def test_planning_takes_the_difference_to_detect(drill, capsys):
    assert report.main([str(drill), "--detect", "0.5"]) == 0
    text = (drill / "report.md").read_text()
    assert "| smallest detectable, points | seeds to detect 0.5 points | verdict |" in text
    # The differences of step 5 from step 4 have a standard deviation of .0577 points: three seeds are enough.
    assert "| 0.0051 | 0.0051 | 0.188 | 3 | helped |" in text
    assert (
        report.main([str(drill)]) == 0
        and "seeds to detect" not in (drill / "report.md").read_text()
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: (run / "run.json").write_text("{"),
        lambda run: (run / "metrics.jsonl").write_text(""),
    ],
)
def test_an_unfinished_or_damaged_run_in_a_folder_is_named_and_skipped(drill, capsys, spoil):
    """By report, check and page; passed itself, it is an error."""
    bad = drill / "step_4"
    spoil(bad)
    for run in ("step_2", "step_3", "step_4", "step_5"):
        write_trained(drill / run, run.removeprefix("step_"), [1])
    commands = [
        lambda *runs: report.main([*runs]),
        lambda *runs: main(["check", *runs, "--min-accuracy", "0.5"]),
        lambda *runs: page_main([*runs, "--out", str(drill / "page.html")]),
    ]
    for command in commands:
        assert command(str(drill)) == 0
        error = capsys.readouterr().err
        assert error.startswith(f"jaxdrill: warning: a run is skipped: {bad}")
        assert command(str(bad)) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"jaxdrill: {bad}") and error.count("\n") == 1
    for run in ("step_2", "step_3", "step_5"):
        shutil.rmtree(drill / run)
    for command in commands:
        assert command(str(drill)) == 1
        assert f"No finished run was found: {bad}" in capsys.readouterr().err


def test_text_from_files_is_no_markup(tmp_path):
    path = write_run(tmp_path / "<b>run", "2", CURVES, processor="<script>alert(1)</script> | x\ny")
    config = json.loads((path / "config.json").read_text()) | {
        "goal": "<img src=x onerror=alert(1)> | `a<b`"
    }
    (path / "config.json").write_text(json.dumps(config))
    page = jaxdrill.write_report([path]).read_text()
    assert "<img src=x" not in page and "<script" not in page and "<b>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt; | " in page
    text = (path / "report.md").read_text()
    assert "<img" not in text and "<script" not in text and "&lt;/script&gt; \\| x y" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "there is no folder runs here; train first"),
        (["nowhere"], 1, "The run folder nowhere does not exist"),
        (["."], 1, ". is not a run folder: config.json is missing"),
        (["--output", "x", "nowhere"], 2, "--output is unknown; did you mean --out?"),
        (
            ["nowhere", "--detect", "0"],
            2,
            "0 is not a number of percentage points above 0 and up to 100",
        ),
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
        ("0.01", [], 0, "at least 1 %"),
        ("0.992", [], 0, "at least 99.2 %"),  # the mean itself
        ("0.99201", [], 3, ", below 99.201 %"),
        ("0.98", ["--confident"], 0, "; the mean is above 98 % (p = 0.0046, alpha = 0.05)"),
        ("0.98", ["--alpha", "0.01"], 0, "; the mean is above 98 % (p = 0.0046, alpha = 0.01)"),
        (
            "0.98",
            ["--alpha", "0.001"],
            3,
            "; the mean is not shown to be above 98 % (p = 0.0046, alpha = 0.001)",
        ),
        (
            "0.98",
            ["--confident", "--alpha", "0"],
            3,
            "; the mean is not shown to be above 98 % (p = 0.0046, alpha = 0)",
        ),
        (
            "0.991",
            ["--confident"],
            3,
            "; the mean is not shown to be above 99.1 % (p = 0.24, alpha = 0.05)",
        ),
        ("0.994", ["--confident", "--alpha", "1"], 3, ", below 99.4 %"),
    ],
)
def test_check(tmp_path, capsys, minimum, more, code, message):
    """The mean of 99.0, 99.2 and 99.4 %; `--alpha` implies `--confident`."""
    folder = write_run(tmp_path / "run", "2", CURVES)
    assert main(["check", str(folder), "--min-accuracy", minimum, *more]) == code
    said, line = capsys.readouterr(), f"{folder}: test 99.2 % over 3 seeds"
    line = line + message if message[0] in ",;" else f"{line}, {message}"
    assert (said.out, said.err) == ((f"{line}\n", "") if code == 0 else ("", f"jaxdrill: {line}\n"))


@pytest.mark.parametrize(
    ("accuracies", "why"),
    [([0.919] * n, "a test needs at least 3 seeds") for n in (1, 2)]
    + [([0.919] * 3, "all seeds are equal")],
)
def test_check_of_seeds_without_a_spread(tmp_path, capsys, accuracies, why):
    """They pass by their mean; whether they would again is not known."""
    curves = {seed: [accuracy] for seed, accuracy in enumerate(accuracies, start=1)}
    folder = write_run(tmp_path / "run", "2", curves)
    seeds = f"{len(curves)} seed{'s' if len(curves) > 1 else ''}"
    measured = f"{folder}: test {100 * accuracies[0]:g} % over {seeds}"
    assert main(["check", str(folder), "--min-accuracy", "0.01"]) == 0
    assert capsys.readouterr().out == f"{measured}, at least 1 %\n"
    assert main(["check", str(folder), "--min-accuracy", "0.01", "--confident"]) == 3
    what = f"; whether the mean is above 1 % is inconclusive: {why}. Train more --seeds"
    assert capsys.readouterr().err == f"jaxdrill: {measured}{what}\n"


def test_check_says_by_how_little_a_run_fails(tmp_path, capsys):
    """99.3967 % is not shown as 99.40 %."""
    folder = write_run(
        tmp_path / "run", "2", {1: [0.994], 2: [0.994], 3: [0.9939]}, labels=np.arange(10_000) % 10
    )
    assert main(["check", str(folder), "--min-accuracy", "0.994"]) == 3
    assert (
        capsys.readouterr().err
        == f"jaxdrill: {folder}: test 99.3967 % over 3 seeds, below 99.4 %\n"
    )


@pytest.mark.parametrize(
    ("flag", "value", "meant"),
    [
        ("--min-accuracy", "99.4", "; did you mean 0.994?"),
        ("--min-accuracy", "100", "; did you mean 1?"),
        ("--min-accuracy", "101", ""),
        ("--min-accuracy", "x", ""),
        ("--min-accuracy", "nan", ""),
        ("--alpha", "5", "; did you mean 0.05?"),
        ("--alpha", "-1", ""),
    ],
)
def test_check_of_what_is_not_a_fraction(capsys, flag, value, meant):
    assert main(["check", "run", "--min-accuracy", "0.5", flag, value]) == 2
    expected = f"jaxdrill: argument {flag}: {value} is not a number from 0 to 1{meant}\n"
    assert capsys.readouterr().err == expected


def test_check_needs_a_run_and_a_minimum(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none"), "--min-accuracy", "0.9"]) == 1
    assert main(["check", str(tmp_path)]) == 2
    assert "--min-accuracy" in capsys.readouterr().err


def test_check_takes_a_folder_of_runs(drill, capsys):
    """All must pass."""
    runs = [
        f"{drill / step}: test {mean} % over {seeds} seeds"
        for step, mean, seeds in (
            ("step_2", "99.2", 3),
            ("step_3", "99.1", 2),
            ("step_4", "99.2", 3),
            ("step_5", "99.6667", 3),
        )
    ]
    assert main(["check", str(drill), "--min-accuracy", "0.991"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{run}, at least 99.1 %" for run in runs]
    assert main(["check", str(drill), "--min-accuracy", "0.993"]) == 3
    said = capsys.readouterr()
    assert said.out == f"{runs[3]}, at least 99.3 %\n"
    assert said.err == f"jaxdrill: {'; '.join(f'{run}, below 99.3 %' for run in runs[:3])}\n"


def test_the_page_stands_alone(drill):
    """As a process: one file without scripts or addresses, each picture whole, in Markdown the same tables."""
    done = subprocess.run(
        [sys.executable, "-m", "jaxdrill.report", drill], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = (drill / "report.html").read_text()
    assert len(page) < 5e6
    assert not re.search(r"<script|<link|url\(http|src=\"http|href=\"(?!#)", page)
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]+">', page)
    assert len(pictures) == page.count("<img") > 10
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).verify()
    assert page.count("<svg") == 2 + 4 + 1  # the ladder in two widths
    assert not re.search(r"#0a0b0\d", page)  # every stand-in became the page's colour
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page
    text = (drill / "report.md").read_text()
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "Target, result, analysis",
        "Did the step help?",
        "Which images are wrong",
        "Details of step_2",
        "Details of step_3",
        "Details of step_4",
        "Details of step_5",
        "How it was measured",
    ]
    assert "<img" not in text and "| step_5 | step_4 | 3 | +0.467 |" in text
    assert report.main([str(drill)]) == 0
    assert (drill / "report.html").read_text() == page


CHECK = """<script>
const images = [...document.images];
Promise.all(images.map(i => i.decode().catch(() => 0))).then(() => {
  const top = e => e.getBoundingClientRect().top, screens = 3 * 667;
  parent.document.title = JSON.stringify({
    images: images.length, missing: images.filter(i => !i.naturalWidth).length,
    drawings: [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().height > 50).length,
    page: document.documentElement.scrollWidth, window: window.innerWidth,
    sideways: [...document.body.querySelectorAll("*")].filter(e => top(e) < screens && e.scrollWidth > e.clientWidth + 1
      && getComputedStyle(e).display != "inline" && !e.closest("svg")).map(e => e.tagName + "." + e.className),
    first: ["h1", ".verdict", "svg", ".first"].map(s => [...document.querySelectorAll(s)].map(top).find(t => t > 0)),
  });
});
</script></body>"""


@pytest.mark.parametrize("width", [1200, 500, 375])
def test_in_a_browser(drill, tmp_path, width):
    """The answer comes first; no picture is missing; the page never scrolls sideways, and on a phone nothing in its
    first three screens does. Chromium's own window is never narrower than 500, so the page is in a frame."""
    browser = next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
        ),
        None,
    )
    if browser is None:
        pytest.skip("no Chromium or Chrome to render the page with")
    assert report.main([str(drill)]) == 0
    page = (drill / "report.html").read_text()
    frame = html.escape(page.replace("</body>", CHECK))
    style = f"width:{width}px;height:667px;border:0"
    (tmp_path / "frame.html").write_text(
        f'<title>-</title><iframe style="{style}" srcdoc="{frame}"></iframe>'
    )
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1300,1000",
        "--virtual-time-budget=10000",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title and title[1] != "-", done.stderr
    seen = json.loads(html.unescape(title[1]))
    assert seen["images"] == page.count("<img") and seen["missing"] == 0
    assert seen["drawings"] == 6  # one of the two ladders
    assert seen["page"] <= seen["window"] == width
    assert seen["first"] == sorted(seen["first"]) and None not in seen["first"]
    if width == 375:
        assert seen["sideways"] == []
        assert seen["first"][3] < 667  # the table begins on the first screen
