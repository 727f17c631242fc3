"""The ink of a drawing is the same in every browser, on the canvas and in `jaxdrill predict`."""

import numpy as np
import pytest
from drawings import DIGIT, DRAWINGS, FIREFOX, PREDICTED, SEEN, draw
from PIL import Image

from jaxdrill.predict import digit, read_picture


@pytest.fixture
def opened(chromium, page_file):
    chromium.open(page_file)
    return chromium


@pytest.mark.parametrize("name", ["resistant_firefox", FIREFOX])
def test_every_browser_predicts_the_same(browsers, page_file, name):
    """The same strokes give the same bytes. A cleared drawing has no prediction."""
    both = [browsers("chromium"), browsers(name)]
    for started in both:
        started.open(page_file)
    for expected, strokes in DRAWINGS.items():
        for started in both:
            for stroke in strokes:
                draw(started, stroke)
            started.wait(PREDICTED)
            assert started.run(DIGIT) == expected
        # The canvas has different subpixel offsets in the two windows, so that mouse events give
        # different points. Both windows therefore draw Chromium's points.
        same, seen, probabilities = both[0].run("strokes"), [], []
        for started in both:
            started.run("drop(Infinity)")
            assert [started.run(code) for code in (SEEN, DIGIT, PREDICTED)] == [[], "", False]
            started.run(
                f"{same}.forEach(([first, ...rest]) => (begin(first), drawing.push(...rest)))"
            )
            started.wait(f"!due && {PREDICTED}")
            seen.append(started.run(SEEN))
            probabilities.append(started.run("networks[0].each[0]"))
            started.run("drop(Infinity)")
        assert len(seen[0]) == 784 and seen[0] == seen[1]
        np.testing.assert_allclose(*probabilities, rtol=1e-9)


def test_ink_is_what_the_canvas_shows(opened):
    """Compare dots, curves, corners, crossings and lines across the border with canvas pixels.

    Chromium approximates the outlines of curves, and it adds the coverage of two edges in a pixel.
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
            const sheet = new OffscreenCanvas(280, 280);
            const copy = sheet.getContext("2d", {{ willReadFrequently: true }});
            copy.drawImage(canvas, 0, 0);
            const {{ data }} = copy.getImageData(0, 0, 280, 280);
            const shown = Array.from(data.filter((_, n) => n % 4 === 3));
            return [shown, Array.from(ink.of(strokes)), {SEEN}];
        }})()"""
        shown, covered, seen = (np.array(values) for values in opened.run(code))
        shown = shown / 255
        expected = (
            digit.centred(np.clip((shown - 0.25) / 0.75, 0, 1).reshape(280, 280))
            .astype(int)
            .ravel()
        )
        assert np.abs(shown - covered).mean() < 0.002
        assert np.abs(expected - seen).mean() < 0.7 and np.abs(expected - seen).max() <= 15


def test_ink_grows_with_the_strokes(opened):
    """Strokes give the same ink whether their points are added one by one or at once."""
    strokes = np.random.default_rng(1).uniform(0, 280, (3, 5, 2)).tolist()
    code = f"""(() => {{
        const grown = new Raster(280, 280), strokes = [];
        for (const stroke of {strokes}) {{
            strokes.push([]);
            for (const point of stroke) {{
                strokes.at(-1).push(point);
                grown.of(strokes);
                grown.of(strokes);
            }}
        }}
        const both = [grown.of(strokes), new Raster(280, 280).of(strokes)];
        return both.map((covered) => Array.from(covered));
    }})()"""
    grown, whole = opened.run(code)
    assert max(whole) == 1 and grown == whole


def test_a_drawing_is_seen_as_predict_sees_its_picture(opened, tmp_path):
    draw(opened, [(0.3, 0.25), (0.5, 0.2), (0.7, 0.3), (0.6, 0.5), (0.35, 0.75), (0.75, 0.75)])
    covered = np.array(opened.run("Array.from(ink.of(strokes))")).reshape(280, 280)
    Image.fromarray(np.round(255 - 255 * covered).astype(np.uint8)).save(tmp_path / "drawing.png")
    seen = np.array(opened.run(SEEN)).reshape(28, 28)
    assert (
        seen.max() == 255
        and np.abs(read_picture(tmp_path / "drawing.png").astype(int) - seen).max() <= 2
    )


def test_preprocessing_is_that_of_predict(opened):
    """`centred` in network.js equals `digit.centred`, except for the rounding of halves."""
    generator = np.random.default_rng(0)
    for height, width in ((40, 40), (90, 61), (30, 120)):
        ink = np.zeros((height, width))
        top, left = generator.integers(0, 10, 2)
        ink[top : top + 7 + height // 3, left : left + 5 + width // 4] = generator.random(
            (7 + height // 3, 5 + width // 4)
        )
        found = opened.run(f"Array.from(centred({ink.ravel().tolist()}, {width}, {height}))")
        assert np.abs(np.array(found).reshape(28, 28) - digit.centred(ink)).max() <= 1
    assert opened.run("centred([0, 0, 0, 0], 2, 2)") is None
