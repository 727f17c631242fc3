"""Drawing on the page, in Chromium, in Firefox, and in Firefox that resists fingerprinting, with real input events."""

import re
import shutil
from contextlib import ExitStack
from functools import cache

import firefox
import numpy as np
import pytest
from conftest import ROOT
from drawings import ANSWERED, SEEN, canvas_box, draw
from PIL import Image
from runs_on_disk import CURVES, write_run

from benchmarks import browser
from jaxdrill.page.__main__ import main
from jaxdrill.predict import digit
from jaxdrill.runs.reader import read

PREFERENCES = {"firefox": {}, "resistant_firefox": {"privacy.resistFingerprinting": True}}
FIREFOX = pytest.param("firefox", marks=pytest.mark.slow)
BROWSERS = ["chromium", "resistant_firefox", FIREFOX]
DIGIT = "document.querySelector('.digit').textContent"
CTRL, ALT, META, SHIFT = 2, 1, 4, 8
# Points as fractions of the canvas, and what the network predicts for them.
DRAWINGS = {
    "0": [
        [
            (0.5, 0.2),
            (0.35, 0.3),
            (0.3, 0.5),
            (0.35, 0.7),
            (0.5, 0.8),
            (0.65, 0.7),
            (0.7, 0.5),
            (0.65, 0.3),
            (0.5, 0.2),
        ]
    ],
    "1": [[(0.5, 0.2), (0.5, 0.5), (0.5, 0.8)]],
    "4": [[(0.4, 0.2), (0.3, 0.5), (0.7, 0.5)], [(0.65, 0.25), (0.62, 0.5), (0.6, 0.85)]],
    "7": [[(0.3, 0.2), (0.5, 0.2), (0.7, 0.2), (0.6, 0.4), (0.5, 0.6), (0.4, 0.85)]],
}


@pytest.fixture(scope="module")
def browsers(tmp_path_factory):
    """A function that starts a browser by its name when it is first needed."""
    with ExitStack() as stack:

        @cache
        def start(name):
            driver = firefox if name in PREFERENCES else browser
            if not driver.program():
                pytest.skip(f"{driver.NAMES[0]} is not installed")
            arguments = [PREFERENCES[name]] if name in PREFERENCES else []
            return stack.enter_context(driver.started(tmp_path_factory.mktemp(name), *arguments))

        yield start


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with example images and measured weights."""
    folder = write_run(tmp_path_factory.mktemp("run") / "step_6_one", "6_one", CURVES)
    shutil.copytree(ROOT / "results" / "step_6_one" / "weights", folder / "weights")
    return folder


@pytest.fixture(scope="module")
def page_file(run):
    file = run.parent / "page.html"
    assert main([str(run), "--out", str(file), "--seeds", "1"]) == 0
    return file


@pytest.fixture(params=BROWSERS)
def opened(request, browsers, page_file):
    started = browsers(request.param)
    started.errors.clear()
    started.open(page_file)
    yield started
    assert started.errors == []


@pytest.fixture
def chromium(browsers, page_file):
    browsers("chromium").open(page_file)
    return browsers("chromium")


def test_drawing_undo_redo_and_clear(opened):
    """An empty canvas has no prediction."""
    assert opened.run(SEEN) == [] and opened.run(DIGIT) == ""
    (vertical,) = DRAWINGS["1"]
    draw(opened, vertical)
    opened.wait(ANSWERED)
    one = opened.run(SEEN)
    assert opened.run(DIGIT) == "1"
    heights = opened.run(
        "Array.from(document.querySelectorAll('#network_0 i'), (bar) => parseFloat(bar.style.height))"
    )
    assert sum(heights) == pytest.approx(100, abs=0.1)
    draw(opened, [(0.2, 0.5), (0.8, 0.5)])
    both = opened.run(SEEN)
    assert both != one
    opened.key("z", CTRL)
    assert opened.run(SEEN) == one
    draw(opened, [(0.2, 0.5), (0.8, 0.5)])
    assert opened.run(SEEN) == both
    opened.run("document.getElementById('undo').click()")
    assert opened.run(SEEN) == one
    draw(opened, [(0.2, 0.5), (0.8, 0.5)])
    assert opened.run(SEEN) == both
    opened.run("document.getElementById('clear').click()")
    assert opened.run(SEEN) == [] and opened.run(DIGIT) == ""
    opened.run("document.getElementById('undo').click()")
    assert opened.run(SEEN) == []


def test_redo(opened):
    """Redo restores what undo or clear removed until the next stroke, and otherwise changes nothing."""
    keys = [("Z", CTRL + SHIFT), ("Z", META + SHIFT), ("y", CTRL)]
    for stroke in DRAWINGS["4"]:
        draw(opened, stroke)
    state = "[strokes, Array.from(seen)]"
    four = opened.run(state)
    for key in keys:
        opened.key(*key)
        assert opened.run(state) == four
        for removal in ("drop(1)", "drop(Infinity)", "(drop(1), drop(1))"):
            opened.run(removal)
            opened.key(*key)
            opened.key(*key)
            assert opened.run(state) == four
    opened.run("drop(Infinity)")
    draw(opened, [(0.5, 0.5)])
    for key in keys:
        opened.key(*key)
    assert opened.run("strokes.length") == 1


def test_other_keys_neither_undo_nor_redo(opened):
    for stroke in DRAWINGS["4"]:
        draw(opened, stroke)
    opened.run("drop(1)")
    for key in (("z",), ("y",), ("Z", SHIFT), ("z", ALT), ("Y", CTRL + SHIFT)):
        opened.key(*key)
        assert opened.run("[strokes.length, undone.length]") == [1, 1]


@pytest.mark.parametrize("opened", ["chromium", FIREFOX], indirect=True)
def test_keys_that_resistance_to_fingerprinting_disguises(opened):
    """AltGr, which may be reported as Ctrl and Alt, types letters; Caps Lock gives a capital letter without Shift."""
    for stroke in DRAWINGS["4"]:
        draw(opened, stroke)
    for key in (("z", CTRL + ALT), ("Z", CTRL + ALT + SHIFT), ("y", CTRL + ALT)):
        opened.key(*key)
        assert opened.run("[strokes.length, undone.length]") == [2, 0]
    opened.key("Z", CTRL)
    assert opened.run("[strokes.length, undone.length]") == [1, 1]


def test_points_between_two_events_are_joined(opened):
    draw(opened, [(0.2, 0.2), (0.8, 0.8)])
    assert opened.run("ink.of(strokes)[140 * 280 + 140]") == 1


def test_drawing_by_keys(opened):
    opened.run("canvas.focus()")
    for key in (
        "ArrowUp",
        "ArrowUp",
        " ",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
        "ArrowDown",
        " ",
        "ArrowLeft",
    ):
        opened.key(key)
    assert opened.run("strokes") == [[[140, y] for y in (120, 130, 140, 150, 160)]]
    opened.wait(ANSWERED)
    opened.key("ArrowRight", SHIFT)
    assert opened.run("[pen.x, pen.y, pen.down]") == [132, 160, False]


def test_example_images_and_maps(opened, run):
    """The page shows the bytes of an image, and drawing replaces it."""
    images = read(run).images
    assert opened.run("document.querySelectorAll('#digits button').length") == len(images)
    for n in range(3):
        opened.run(f"document.querySelectorAll('#digits button')[{n}].click()")
        label = opened.run("document.getElementById('label').textContent")
        index = int(re.fullmatch(r"image (\d+), labelled \d", label)[1])
        assert opened.run(SEEN) == images[index].ravel().tolist()
    opened.wait(ANSWERED)
    opened.run("document.getElementById('inside').open = true")
    opened.wait("document.querySelectorAll('#maps figure').length > 0")
    captions = opened.run(
        "Array.from(document.querySelectorAll('#maps figcaption'), (text) => text.textContent)"
    )
    assert (captions[0], captions[-1]) == ("conv1: 26x26, 12 maps", "conv8: 1x1, 10 maps")
    draw(opened, [(0.5, 0.2), (0.5, 0.8)])
    assert opened.run("document.getElementById('label').textContent") == ""


def test_touch_draws(opened):
    left, top, width = canvas_box(opened)
    opened.touch(0, "Down", left + width / 2, top + width / 4)
    opened.touch(0, "Move", left + width / 2, top + width * 3 / 4)
    opened.touch(0, "Up")
    opened.wait(ANSWERED)
    assert opened.run("strokes.length") == 1 and opened.run("scrollY") == 0


def test_a_second_finger_does_not_draw(opened):
    left, top, width = canvas_box(opened)

    def touch(finger, kind, x, y):
        opened.touch(finger, kind, left + width * x, top + width * y)

    touch(0, "Down", 0.3, 0.2)
    touch(1, "Down", 0.9, 0.9)
    touch(0, "Move", 0.3, 0.4)
    touch(1, "Move", 0.8, 0.9)
    opened.touch(1, "Up")
    touch(0, "Move", 0.3, 0.6)
    opened.touch(0, "Up")
    assert opened.run("strokes.length") == 1
    xs, ys = np.array(opened.run("strokes[0]")).T
    np.testing.assert_allclose(xs, 0.3 * 280, atol=2)
    assert ys[-1] == pytest.approx(0.6 * 280, abs=2)


def test_keys_and_mouse_together(opened):
    """A click elsewhere does not lift the pen of the keys, and a key that is held down moves it once."""
    left, top, _ = canvas_box(opened)
    opened.run("canvas.focus()")
    opened.key(" ", times=4)
    for kind in ("Pressed", "Released"):
        opened.mouse(kind, left + 9, top + 9, button="right")
    opened.key("ArrowDown")
    assert opened.run("[strokes.length, strokes[0].length, pen.down]") == [1, 2, True]
    draw(opened, [(0.2, 0.2), (0.2, 0.8)])  # the mouse takes over
    assert opened.run("[strokes.length, pen.down]") == [2, False]


@pytest.mark.parametrize("name", ["resistant_firefox", FIREFOX])
def test_every_browser_predicts_the_same(browsers, page_file, name):
    """From the same strokes the same bytes, and after each drawing that is cleared nothing."""
    both = [browsers("chromium"), browsers(name)]
    for started in both:
        started.open(page_file)
    for expected, strokes in DRAWINGS.items():
        for started in both:
            for stroke in strokes:
                draw(started, stroke)
            started.wait(ANSWERED)
            assert started.run(DIGIT) == expected
        # The canvas is not at the same fraction of a pixel in both windows, so Chromium's strokes are drawn in both.
        same, seen, probabilities = both[0].run("strokes"), [], []
        for started in both:
            started.run("drop(Infinity)")
            assert [started.run(code) for code in (SEEN, DIGIT, ANSWERED)] == [[], "", False]
            started.run(
                f"{same}.forEach(([first, ...rest]) => (begin(first), drawing.push(...rest)))"
            )
            started.wait(f"!due && {ANSWERED}")
            seen.append(started.run(SEEN))
            probabilities.append(started.run("networks[0].each[0]"))
            started.run("drop(Infinity)")
        assert len(seen[0]) == 784 and seen[0] == seen[1]
        np.testing.assert_allclose(*probabilities, rtol=1e-9)


def test_ink_is_what_the_canvas_shows(chromium):
    """Dots, curves, corners, crossings and lines across the border: the pixels, and the image that they give.

    Chromium approximates the outlines of curves, and it adds what two edges cover of a pixel.
    """
    generator = np.random.default_rng(0)
    drawings = [
        [[[140, 140]]],
        [[[0, 0], [280, 280]], [[280, 0], [0, 280]]],
        [[[-500, 90], [900, 91.5]]],
        [[[60, 60], [220, 60], [60, 61], [220, 200], [220, 60]]],
        *(
            [[[280 * x, 280 * y] for x, y in stroke] for stroke in strokes]
            for strokes in DRAWINGS.values()
        ),
        *(generator.uniform(-20, 300, (2, 6, 2)).round(2).tolist() for _ in range(6)),
    ]
    for strokes in drawings:
        code = f"""(() => {{
            drop(Infinity);
            strokes.push(...{strokes});
            redraw();
            const sheet = new OffscreenCanvas(280, 280).getContext("2d", {{ willReadFrequently: true }});
            sheet.drawImage(canvas, 0, 0);
            const shown = Array.from(sheet.getImageData(0, 0, 280, 280).data.filter((_, n) => n % 4 === 3));
            return [shown, Array.from(ink.of(strokes)), {SEEN}];
        }})()"""
        shown, covered, seen = (np.array(values) for values in chromium.run(code))
        shown = shown / 255
        expected = (
            digit.centred(np.clip((shown - 0.25) / 0.75, 0, 1).reshape(280, 280))
            .astype(int)
            .ravel()
        )
        assert np.abs(shown - covered).mean() < 0.002
        assert np.abs(expected - seen).mean() < 0.7 and np.abs(expected - seen).max() <= 15


def test_ink_grows_with_the_strokes(chromium):
    """Added point by point, or at once, the same strokes give the same ink."""
    strokes = np.random.default_rng(1).uniform(0, 280, (3, 5, 2)).tolist()
    code = f"""(() => {{
        const grown = new Raster(280, 280), strokes = [];
        for (const stroke of {strokes}) {{
            strokes.push([]);
            for (const point of stroke) {{ strokes.at(-1).push(point); grown.of(strokes); grown.of(strokes); }}
        }}
        return [grown.of(strokes), new Raster(280, 280).of(strokes)].map((covered) => Array.from(covered));
    }})()"""
    grown, whole = chromium.run(code)
    assert max(whole) == 1 and grown == whole


def test_a_drawing_is_seen_as_predict_sees_its_picture(chromium, tmp_path):
    draw(chromium, [(0.3, 0.25), (0.5, 0.2), (0.7, 0.3), (0.6, 0.5), (0.35, 0.75), (0.75, 0.75)])
    covered = np.array(chromium.run("Array.from(ink.of(strokes))")).reshape(280, 280)
    Image.fromarray(np.round(255 - 255 * covered).astype(np.uint8)).save(tmp_path / "drawing.png")
    seen = np.array(chromium.run(SEEN)).reshape(28, 28)
    assert (
        seen.max() == 255
        and np.abs(digit.read(tmp_path / "drawing.png").astype(int) - seen).max() <= 2
    )
