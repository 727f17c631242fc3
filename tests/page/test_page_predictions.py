"""Compare the predictions of the page with those of JAX, and count the recognised drawings."""

import re

import numpy as np
import pytest
from conftest import ROOT
from drawings import PREDICTED, SEEN, draw
from PIL import Image
from runs_on_disk import CURVES, write_run, write_trained
from scipy import ndimage

from jaxdrill import config, page, weights
from jaxdrill.data import idx
from jaxdrill.data.preparation import Preparation
from jaxdrill.page.__main__ import main
from jaxdrill.weights import inference


@pytest.fixture
def opened(chromium, drill_page):
    chromium.open(drill_page)
    return chromium


@pytest.mark.parametrize("step", config.steps())
def test_logits_are_those_of_jax(opened, drill_page, digits, step):
    """JAX runs the weights as the page has them: rounded to 8 bits, of the large network to 6."""
    levels = 31 if step == "step_1" else 127
    kept = weights.read_weights(weights.find(drill_page.parent / step, 1))
    arrays = dict(kept.weights)
    for name, array in arrays.items():
        if name.endswith((".kernel", ".depthwise")):
            factors, whole = page.round_kernel(array, levels)
            arrays[name] = whole * factors
            assert np.abs(arrays[name] - array).max() <= np.abs(array).max() / levels / 1.99
    images = digits.test_images[:4]
    # The export's tests compile the same program for 40 images.
    several = digits.test_images[:40, ..., 0]
    expected = inference.logits(kept._replace(weights=arrays))(several)[:4]
    code = f"""
        (images) => images.map((image) => {{
            const network = networks.find(({{ name }}) => name === "{step}");
            const run = forward(network.layers[0], image, DATA.mean, DATA.deviation);
            for (;;) {{
                const {{ value, done }} = run.next();
                if (done) return Array.from(value.at(-1).values);
            }}
        }})"""
    found = opened.run(f"({code})({images.reshape(4, -1).tolist()})")
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_rounding_changes_few_predictions(mnist_dir):
    """Rounding changes fewer than 1 in 1,000 predictions of a measured run on all test images."""
    images = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)
    file = weights.find(ROOT / "results" / "step_6_one", 1)
    kept = weights.read_weights(file)
    arrays = dict(kept.weights)
    for name, array in arrays.items():
        if name.endswith((".kernel", ".depthwise")):
            factors, whole = page.round_kernel(array, page.LEVELS)
            arrays[name] = whole * factors
    logits = [inference.logits(each)(images) for each in (kept, kept._replace(weights=arrays))]
    changed = logits[0].argmax(-1) != logits[1].argmax(-1)
    assert 0 < changed.sum() < 10


def test_the_page_of_a_trained_run(finished, tmp_path, chromium, digits):
    """The page shows the images of the run, and its predictions are those of `weights.load`."""
    assert main([str(finished), "--out", str(tmp_path / "page.html")]) == 0
    chromium.open(tmp_path / "page.html")
    chromium.wait("document.querySelectorAll('#digits button').length > 9")
    chromium.run("document.querySelectorAll('#digits button')[3].click()")
    chromium.wait(PREDICTED)
    index = int(chromium.run("document.getElementById('label').textContent").split()[1].rstrip(","))
    expected = weights.load(finished)(digits.test_images[index : index + 1])[0]
    np.testing.assert_allclose(chromium.run("networks[0].each[0]"), expected, atol=0.01)


def test_a_network_trained_on_dark_ink_gets_the_inverted_drawing(tmp_path, chromium):
    run = write_trained(write_run(tmp_path / "step_6_one", "6_one", CURVES), "6_one", [1])
    file, measured = weights.find(run, 1), weights.find(ROOT / "results" / "step_6_one", 1)
    dark = Preparation("mnist", "dark_on_light").as_table()
    arrays, recipe, _ = weights.read_weights(measured)
    weights.write_weights(file, arrays, recipe, {"preparation": dark})
    assert main([str(run), "--out", str(tmp_path / "page.html")]) == 0
    chromium.open(tmp_path / "page.html")
    draw(chromium, [(0.3, 0.2), (0.7, 0.2), (0.4, 0.8)])
    chromium.wait(PREDICTED)
    seen = np.array(chromium.run(SEEN), np.uint8).reshape(1, 28, 28)
    np.testing.assert_allclose(
        chromium.run("networks[0].each[0]"), weights.load(file)(255 - seen)[0], atol=0.05
    )
    assert np.abs(weights.load(file)(255 - seen) - weights.load(file)(seen)).max() > 0.1
    chromium.wait("document.querySelectorAll('#digits button').length > 9")
    chromium.run(
        "document.querySelector('#digits button').click()"
    )  # Test images look like training images, so they are not inverted.
    chromium.wait(PREDICTED)
    image = np.array(chromium.run(SEEN), np.uint8).reshape(1, 28, 28)
    np.testing.assert_allclose(
        chromium.run("networks[0].each[0]"), weights.load(file)(image)[0], atol=0.05
    )


def pen_lines(image: np.ndarray) -> list[np.ndarray]:
    """Return lines of points [row, column] along the middle of the strokes of uint8[28, 28]."""
    ink = np.asarray(Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC)) > 127
    depth = ndimage.distance_transform_edt(ink)
    left, lines = np.argwhere((depth > 2) & (depth >= ndimage.maximum_filter(depth, 3))), []
    while len(left):
        line = [left[0]]
        left = left[1:]
        while len(left) and ((left - line[-1]) ** 2).sum(1).min() <= 36:
            nearest = ((left - line[-1]) ** 2).sum(1).argmin()
            line.append(left[nearest])
            left = np.delete(left, nearest, 0)
        lines.append(np.array(line[::3]) / 4)
    return lines


@pytest.mark.slow
def test_digits_drawn_anywhere(chromium, mnist_dir, tmp_path):
    """Trace 100 test images at random positions and sizes. The docs state the number recognised."""
    images, labels = (
        idx.read(mnist_dir / f"t10k-{name}-ubyte.gz", n)
        for name, n in (("images-idx3", 3), ("labels-idx1", 1))
    )
    assert main([str(ROOT / "results" / "step_6_one"), "--out", str(tmp_path / "page.html")]) == 0
    chromium.open(tmp_path / "page.html")
    generator, right = np.random.default_rng(0), 0
    for image, label in zip(images[:100], labels, strict=False):
        scale = generator.uniform(4, 9)  # canvas pixels per pixel of the image
        corner = (
            generator.uniform(0, 280 - 20 * scale, 2) - 4 * scale
        )  # of the image, whose margin is 4
        for line in pen_lines(image):
            draw(chromium, [((corner + point * scale) / 280)[::-1] for point in line], wait=False)
        chromium.wait(f"!due && {PREDICTED}")
        right += chromium.run("document.querySelector('.digit').textContent") == f"{label}"
        chromium.run("document.getElementById('clear').click()")
    assert right >= 96
    stated = re.search(r"(\d+) of 100", (ROOT / "docs" / "guide.md").read_text())
    assert stated and abs(int(stated[1]) - right) <= 1, right
