"""Draw on the page with the mouse of any browser, and start the browsers."""

import shutil
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from runs_on_disk import CURVES, write_run, write_trained

ROOT = Path(__file__).parent.parent
SEEN = "Array.from(seen ?? [])"
PREDICTED = "(document.getElementById('said').textContent !== '')"
DIGIT = "document.querySelector('.digit').textContent"
PREFERENCES = {"firefox": {}, "resistant_firefox": {"privacy.resistFingerprinting": True}}
FIREFOX = pytest.param("firefox", marks=pytest.mark.slow)
ZERO = [(0.5, 0.2), (0.35, 0.3), (0.3, 0.5), (0.35, 0.7), (0.5, 0.8)]
# The prediction of each drawing, and its strokes. Points are fractions of the canvas.
DRAWINGS = {
    "0": [[*ZERO, (0.65, 0.7), (0.7, 0.5), (0.65, 0.3), (0.5, 0.2)]],
    "1": [[(0.5, 0.2), (0.5, 0.5), (0.5, 0.8)]],
    "4": [[(0.4, 0.2), (0.3, 0.5), (0.7, 0.5)], [(0.65, 0.25), (0.62, 0.5), (0.6, 0.85)]],
    "7": [[(0.3, 0.2), (0.5, 0.2), (0.7, 0.2), (0.6, 0.4), (0.5, 0.6), (0.4, 0.85)]],
}


def canvas_box(opened) -> tuple[float, float, float]:
    """Return the left, top and width of the canvas in the window."""
    opened.run("window.scrollTo(0, 0)")
    return tuple(
        opened.run("(({left, top, width}) => [left, top, width])(canvas.getBoundingClientRect())")
    )


def draw(opened, points, wait: bool = True) -> None:
    """Draw one stroke by the mouse through points, which are fractions of the canvas.

    With `wait`, return after the page has processed the drawing.
    """
    left, top, width = canvas_box(opened)
    places = [(left + width * x, top + width * y) for x, y in points]
    opened.mouse("Pressed", *places[0])
    for place in places[1:]:
        opened.mouse("Moved", *place)
    opened.mouse("Released", *places[-1])
    if wait:
        opened.run(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )


@pytest.fixture(scope="session")
def browsers(tmp_path_factory):
    """Return a function that starts a browser when it is first called with the browser's name."""
    import firefox

    from benchmarks import browser

    with ExitStack() as stack:

        @cache
        def start(name):
            driver = firefox if name in PREFERENCES else browser
            if not driver.program():
                pytest.skip(f"{driver.NAMES[0]} is not installed")
            arguments = [PREFERENCES[name]] if name in PREFERENCES else []
            return stack.enter_context(driver.started(tmp_path_factory.mktemp(name), *arguments))

        yield start


@pytest.fixture
def chromium(browsers):
    """Return Chromium. Its console must receive no errors during the test."""
    started = browsers("chromium")
    started.errors.clear()
    yield started
    assert started.errors == []


@pytest.fixture(scope="session")
def measured_run(tmp_path_factory) -> Path:
    """Write a run folder with example images and the weights of a measured run."""
    folder = write_run(tmp_path_factory.mktemp("run") / "step_6_one", "6_one", CURVES)
    shutil.copytree(ROOT / "results" / "step_6_one" / "weights", folder / "weights")
    return folder


@pytest.fixture(scope="session")
def page_file(measured_run) -> Path:
    """Build the page of `measured_run` with one seed."""
    from jaxdrill.page.__main__ import main

    file = measured_run.parent / "page.html"
    assert main([str(measured_run), "--out", str(file), "--seeds", "1"]) == 0
    return file


@pytest.fixture(scope="session")
def drill_page(tmp_path_factory) -> Path:
    """Build the page of all steps with three seeds of random weights each."""
    from jaxdrill import config
    from jaxdrill.page.__main__ import main

    root = tmp_path_factory.mktemp("drill")
    for step in config.steps():
        write_run(root / step, step, CURVES)
        write_trained(root / step, step, CURVES)
    assert main([str(root), "--out", str(root / "page.html")]) == 0
    return root / "page.html"
