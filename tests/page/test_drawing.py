"""Draw on the page with real input events in Chromium and Firefox.

Firefox runs with its defaults, and with resistance to fingerprinting.
"""

import re

import numpy as np
import pytest
from drawings import DIGIT, DRAWINGS, FIREFOX, PREDICTED, SEEN, canvas_box, draw

from jaxdrill.runs.reader import read

BROWSERS = ["chromium", "resistant_firefox", FIREFOX]
CTRL, ALT, META, SHIFT = 2, 1, 4, 8


@pytest.fixture(params=BROWSERS)
def opened(request, browsers, page_file):
    started = browsers(request.param)
    started.errors.clear()
    started.open(page_file)
    yield started
    assert started.errors == []


def test_drawing_undo_redo_and_clear(opened):
    """Show no prediction while the canvas is empty."""
    assert opened.run(SEEN) == [] and opened.run(DIGIT) == ""
    (vertical,) = DRAWINGS["1"]
    draw(opened, vertical)
    opened.wait(PREDICTED)
    one = opened.run(SEEN)
    assert opened.run(DIGIT) == "1"
    bars = "document.querySelectorAll('#network_0 i')"
    heights = opened.run(f"Array.from({bars}, (bar) => parseFloat(bar.style.height))")
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
    """Redo restores removed strokes until the next stroke is drawn. Otherwise it does nothing."""
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
    """AltGr may be reported as Ctrl and Alt. Caps Lock gives a capital letter without Shift."""
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
    opened.wait(PREDICTED)
    opened.key("ArrowRight", SHIFT)
    assert opened.run("[pen.x, pen.y, pen.down]") == [132, 160, False]


def test_example_images_and_maps(opened, measured_run):
    """A click shows the bytes of an example image, and a drawing replaces the image."""
    images = read(measured_run).images
    assert opened.run("document.querySelectorAll('#digits button').length") == len(images)
    for n in range(3):
        opened.run(f"document.querySelectorAll('#digits button')[{n}].click()")
        label = opened.run("document.getElementById('label').textContent")
        index = int(re.fullmatch(r"image (\d+), labelled \d", label)[1])
        assert opened.run(SEEN) == images[index].ravel().tolist()
    opened.wait(PREDICTED)
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
    opened.wait(PREDICTED)
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
    """A right click does not lift the keyboard's pen. A key that is held down counts once."""
    left, top, _ = canvas_box(opened)
    opened.run("canvas.focus()")
    opened.key(" ", times=4)
    for kind in ("Pressed", "Released"):
        opened.mouse(kind, left + 9, top + 9, button="right")
    opened.key("ArrowDown")
    assert opened.run("[strokes.length, strokes[0].length, pen.down]") == [1, 2, True]
    draw(opened, [(0.2, 0.2), (0.2, 0.8)])  # The mouse ends the keyboard's stroke.
    assert opened.run("[strokes.length, pen.down]") == [2, False]
