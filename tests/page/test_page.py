"""Build the page: its size, security, layout and error messages. The browser is Chromium."""

import json
import re

import numpy as np
import pytest
from drawings import PREDICTED, draw
from runs_on_disk import CURVES, write_run, write_trained

from jaxdrill import config, page
from jaxdrill.page.__main__ import main
from jaxdrill.runs.reader import read


@pytest.fixture
def opened(chromium, drill_page):
    chromium.open(drill_page)
    return chromium


def test_size(drill_page, tmp_path, capsys):
    """The page contains all steps, and further seeds while it stays small."""
    assert drill_page.stat().st_size < 400_000
    assert drill_page.read_text().count('"seeds":[1') == len(config.steps())
    few = [str(drill_page.parent / step) for step in ("step_5", "step_6_small")]
    for flags, seeds in (([], [1, 2, 3]), (["--seeds", "2"], [1, 2])):
        assert main([*few, "--out", str(tmp_path / "few.html"), *flags]) == 0
        assert (
            f'"seeds":{json.dumps(seeds, separators=(",", ":"))}'
            in (tmp_path / "few.html").read_text()
        )


def test_nothing_is_loaded(opened, drill_page):
    text = drill_page.read_text()
    assert not re.search(r"""(src|href)=["']|@import|url\(|https?:""", text)
    policy = re.search(r'Content-Security-Policy" content="(.*)"', text)[1]
    allowed = r"default-src 'none'; script-src 'sha256-\S+'; style-src 'sha256-\S+'; "
    allowed += "base-uri 'none'; form-action 'none'"
    assert re.fullmatch(allowed, policy)
    blocked = opened.run("fetch('data:text/plain,x').then(() => 'fetched', () => 'blocked')")
    assert blocked == "blocked"
    assert any("Content Security Policy" in json.dumps(error) for error in opened.errors)
    opened.errors.clear()


def test_no_pixels_are_read_from_a_canvas(drill_page):
    """Browsers that resist fingerprinting falsify pixels that are read from a canvas."""
    assert not re.search(
        "getImageData|toDataURL|toBlob|convertToBlob|readPixels|VideoFrame", drill_page.read_text()
    )


def test_seeds_that_disagree(chromium, drill_page, tmp_path):
    """Seeds with random weights disagree. The page shows their predictions and their mean."""
    assert main([str(drill_page.parent / "step_2"), "--out", str(tmp_path / "page.html")]) == 0
    chromium.open(tmp_path / "page.html")
    seen = set()
    for stroke in (
        [(0.5, 0.2), (0.5, 0.8)],
        [(0.2, 0.5), (0.8, 0.5)],
        [(0.2, 0.2), (0.8, 0.8)],
        [(0.5, 0.5)],
    ):
        draw(chromium, stroke)
        chromium.wait(PREDICTED)
        probabilities = np.array(chromium.run("networks[0].each"))
        digit, others = probabilities.mean(0).argmax(), probabilities.argmax(1)
        told = [
            f"seed {seed} predicts {other}"
            for seed, other in zip((1, 2, 3), others, strict=True)
            if other != digit
        ]
        assert chromium.run(
            "document.querySelector('td .others, th .others').textContent"
        ) == ", ".join(told)
        assert chromium.run("document.querySelector('.digit').textContent") == f"{digit}"
        seen.add(len(told))
        chromium.run("document.getElementById('clear').click()")
    assert seen - {0}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 375])
def test_narrow_screens_and_dark_mode(chromium, drill_page, width, dark):
    chromium.open(drill_page, width, dark=dark)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("getComputedStyle(canvas).touchAction") == "none"
    ink, paper = chromium.run(
        "['color', 'backgroundColor'].map((key) => getComputedStyle(document.body)[key])"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in (ink, paper)]
    assert (brightness[0] > brightness[1]) == dark and abs(brightness[0] - brightness[1]) > 0.6


def test_runs_with_different_images_do_not_share_the_difficult_images(tmp_path):
    """Runs with different held-out images do not share the list of difficult images."""
    first = write_run(tmp_path / "a", "5", CURVES, split="validation")
    second = write_run(tmp_path / "b", "5", CURVES, split="validation", labels=np.arange(2000) % 10)
    third = write_run(
        tmp_path / "c", "5", CURVES, split="validation", labels=(np.arange(1000) + 1) % 10
    )
    runs = [read(folder) for folder in (first, second, third)]
    assert page.hard_images(runs) == page.hard_images(runs[:1])
    write_trained(first, "5", [1])
    assert "<h2>Validation images that are difficult for the networks</h2>" in page.build(
        [read(first)]
    )


def test_names_cannot_inject(tmp_path, chromium):
    run = write_run(tmp_path / "step_5", "5", CURVES)
    write_trained(run, "5", CURVES)
    table = json.loads((run / "config.json").read_text()) | {
        "name": "</script><img src=x onerror=alert(1)>"
    }
    (run / "config.json").write_text(json.dumps(table))
    assert main([str(run), "--out", str(tmp_path / "page.html")]) == 0
    chromium.open(tmp_path / "page.html")
    assert chromium.run("document.querySelector('th[scope=row]').firstChild.data") == table["name"]
    assert chromium.errors == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "The run folder nowhere does not exist"),
        ([], 2, "the following arguments are required: RUN"),
        (
            ["RUN"],
            1,
            "contains no weights. Every seed that finishes training writes weights/seed_N",
        ),
        (["OTHER"], 1, "contains no weights of its seeds. Rerun the command that trained it."),
        (["RUN", "--seeds", "0"], 2, "--seeds is 0; allowed: an integer of at least 1"),
    ],
)
def test_mistakes(tmp_path, arguments, code, message, capsys):
    run = write_run(tmp_path / "step_5", "5", CURVES)
    if "OTHER" in arguments:
        write_trained(run, "5", [9])
    capsys.readouterr()
    assert (
        main([str(run) if argument in ("RUN", "OTHER") else argument for argument in arguments])
        == code
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
