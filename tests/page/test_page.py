"""The page: its size, its networks and its look, in Chromium. `test_drawing.py` draws on it in other browsers too."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT
from drawings import ANSWERED, SEEN, draw
from PIL import Image
from runs_on_disk import CURVES, write_run, write_trained
from scipy import ndimage

from benchmarks import browser
from jaxdrill import config, page, weights
from jaxdrill.data import idx
from jaxdrill.data.preparation import Preparation
from jaxdrill.main import main as train
from jaxdrill.nn import network
from jaxdrill.page.__main__ import main
from jaxdrill.predict import digit
from jaxdrill.runs.reader import read
from jaxdrill.weights import trained


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not browser.program():
        pytest.skip("no Chromium is installed")
    with browser.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def drill_page(tmp_path_factory):
    """The page of all steps with three seeds each, as if trained."""
    root = tmp_path_factory.mktemp("drill")
    for step in config.steps():
        write_run(root / step, step, CURVES)
        write_trained(root / step, step, CURVES)
    assert main([str(root), "--out", str(root / "page.html")]) == 0
    return root / "page.html"


@pytest.fixture
def opened(chromium, drill_page):
    chromium.errors.clear()
    chromium.open(drill_page)
    yield chromium
    assert chromium.errors == []


def test_its_size(drill_page, tmp_path, capsys):
    """All steps fit; further seeds are put in where there is room."""
    assert drill_page.stat().st_size < 400_000
    assert drill_page.read_text().count('"seeds":[1') == len(config.steps())
    few = [str(drill_page.parent / step) for step in ("step_5", "step_6_small")]
    for flags, seeds in (([], [1, 2, 3]), (["--seeds", "2"], [1, 2])):
        assert main([*few, "--out", str(tmp_path / "few.html"), *flags]) == 0
        assert (
            f'"seeds":{json.dumps(seeds, separators=(",", ":"))}'
            in (tmp_path / "few.html").read_text()
        )


def test_nothing_comes_from_outside(opened, drill_page):
    text = drill_page.read_text()
    assert not re.search(r"""(src|href)=["']|@import|url\(|https?:""", text)
    policy = re.search(r'Content-Security-Policy" content="(.*)"', text)[1]
    allowed = r"default-src 'none'; script-src 'sha256-\S+'; style-src 'sha256-\S+'; base-uri 'none'; form-action 'none'"
    assert re.fullmatch(allowed, policy)
    blocked = opened.run("fetch('data:text/plain,x').then(() => 'fetched', () => 'blocked')")
    assert blocked == "blocked"
    assert any("Content Security Policy" in json.dumps(error) for error in opened.errors)
    opened.errors.clear()


def test_no_pixels_are_read_from_a_canvas(drill_page):
    """Browsers that resist fingerprinting falsify them."""
    assert not re.search(
        "getImageData|toDataURL|toBlob|convertToBlob|readPixels|VideoFrame", drill_page.read_text()
    )


@pytest.mark.parametrize("step", config.steps())
def test_logits_are_those_of_jax(opened, drill_page, digits, step):
    """Of the weights as the page has them, rounded to 8 bits, and those of the large network to 6."""
    levels = 31 if step == "step_1" else 127
    kept = trained.read(weights.find(drill_page.parent / step, 1), fold=False)
    arrays = dict(kept.weights)
    for name, array in arrays.items():
        if name.endswith((".kernel", ".depthwise")):
            factors, whole = page.rounded(array, levels)
            arrays[name] = whole * factors
            assert np.abs(arrays[name] - array).max() <= np.abs(array).max() / levels / 1.99
    graph = network.make_graph(kept.config.network)
    images = digits.test_images[:4]
    expected, _ = network.apply(
        graph, *network.from_named_weights(arrays), images, train=False
    )
    code = f"""
        (images) => images.map((image) => {{
            const network = networks.find(({{ name }}) => name === "{step}");
            const run = forward(network.layers[0], image, DATA.mean, DATA.deviation);
            for (;;) {{ const {{ value, done }} = run.next(); if (done) return Array.from(value.at(-1).values); }}
        }})"""
    found = opened.run(f"({code})({images.reshape(4, -1).tolist()})")
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_rounding_changes_hardly_an_answer(mnist_dir):
    """On all test images, of a measured run: fewer than one in a thousand."""
    images = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)
    file = weights.find(ROOT / "results" / "step_6_one", 1)
    arrays, recipe = weights.read_weights(file)
    for name, array in arrays.items():
        if name.endswith((".kernel", ".depthwise")):
            factors, whole = page.rounded(array, page.LEVELS)
            arrays[name] = whole * factors
    graph = network.make_graph(recipe.network)
    logits, _ = network.apply(
        graph, *network.from_named_weights(arrays), images[..., None], train=False
    )
    changed = np.asarray(logits).argmax(-1) != weights.load_logits(file)(images).argmax(-1)
    assert 0 < changed.sum() < 10


def test_preprocessing_is_that_of_predict(opened):
    """Of the same ink the same image, but for the rounding of halves; so also of the drawing saved as a picture."""
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


def test_seeds_that_disagree(chromium, drill_page, tmp_path):
    """Seeds with random weights do; the page says which, and what their mean is."""
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
        chromium.wait(ANSWERED)
        probabilities = np.array(chromium.run("networks[0].each"))
        digit, others = probabilities.mean(0).argmax(), probabilities.argmax(1)
        told = [
            f"seed {seed} says {other}"
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
def test_it_fits_a_phone_and_the_dark(chromium, drill_page, width, dark):
    chromium.open(drill_page, width, dark=dark)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("getComputedStyle(canvas).touchAction") == "none"
    ink, paper = chromium.run(
        "['color', 'backgroundColor'].map((key) => getComputedStyle(document.body)[key])"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in (ink, paper)]
    assert (brightness[0] > brightness[1]) == dark and abs(brightness[0] - brightness[1]) > 0.6


def test_runs_with_other_images_share_no_hard_ones(tmp_path):
    """Held-out images that differ, in number or in what they show, are not mixed up."""
    first = write_run(tmp_path / "a", "5", CURVES, split="validation")
    second = write_run(tmp_path / "b", "5", CURVES, split="validation", labels=np.arange(2000) % 10)
    third = write_run(
        tmp_path / "c", "5", CURVES, split="validation", labels=(np.arange(1000) + 1) % 10
    )
    runs = [read(folder) for folder in (first, second, third)]
    assert page.hard_images(runs) == page.hard_images(runs[:1])
    write_trained(first, "5", [1])
    assert "<h2>Validation images that the networks find hard</h2>" in page.build([read(first)])


def test_names_cannot_inject(tmp_path, chromium):
    run = write_run(tmp_path / "step_5", "5", CURVES)
    write_trained(run, "5", CURVES)
    table = json.loads((run / "config.json").read_text()) | {
        "name": "</script><img src=x onerror=alert(1)>"
    }
    (run / "config.json").write_text(json.dumps(table))
    assert main([str(run), "--out", str(tmp_path / "page.html")]) == 0
    chromium.errors.clear()
    chromium.open(tmp_path / "page.html")
    assert chromium.run("document.querySelector('th[scope=row]').firstChild.data") == table["name"]
    assert chromium.errors == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "The run folder nowhere does not exist"),
        ([], 2, "the following arguments are required: RUN"),
        (["RUN"], 1, "holds no weights; a finished seed leaves weights/seed_N.safetensors"),
        (["OTHER"], 1, "holds no weights of its seeds; repeat the command that trained it"),
        (["RUN", "--seeds", "0"], 2, "--seeds is 0; allowed: a whole number of at least 1"),
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


def test_a_run_as_it_is_trained(tiny_recipe, tmp_path, chromium, few_digits):
    """From training to the page, with the images that the run kept."""
    assert train(["--step", str(tiny_recipe), "--workdir", str(tmp_path / "run")]) == 0
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    chromium.open(tmp_path / "page.html")
    chromium.wait("document.querySelectorAll('#digits button').length > 9")
    chromium.run("document.querySelectorAll('#digits button')[3].click()")
    chromium.wait(ANSWERED)
    index = int(chromium.run("document.getElementById('label').textContent").split()[1].rstrip(","))
    expected = weights.load(tmp_path / "run")(few_digits.test_images[index : index + 1])[0]
    np.testing.assert_allclose(chromium.run("networks[0].each[0]"), expected, atol=0.01)


def test_a_network_trained_on_dark_ink_gets_the_inverted_drawing(tmp_path, chromium):
    run = write_trained(write_run(tmp_path / "step_6_one", "6_one", CURVES), "6_one", [1])
    file, measured = weights.find(run, 1), weights.find(ROOT / "results" / "step_6_one", 1)
    dark = Preparation("mnist", "dark_on_light").as_table()
    weights.write_weights(file, *weights.read_weights(measured), {"preparation": dark})
    assert main([str(run), "--out", str(tmp_path / "page.html")]) == 0
    chromium.open(tmp_path / "page.html")
    draw(chromium, [(0.3, 0.2), (0.7, 0.2), (0.4, 0.8)])
    chromium.wait(ANSWERED)
    seen = np.array(chromium.run(SEEN), np.uint8).reshape(1, 28, 28)
    np.testing.assert_allclose(
        chromium.run("networks[0].each[0]"), weights.load(file)(255 - seen)[0], atol=0.05
    )
    assert np.abs(weights.load(file)(255 - seen) - weights.load(file)(seen)).max() > 0.1
    chromium.wait("document.querySelectorAll('#digits button').length > 9")
    chromium.run(
        "document.querySelector('#digits button').click()"
    )  # an image as in training: it stays as it is
    chromium.wait(ANSWERED)
    image = np.array(chromium.run(SEEN), np.uint8).reshape(1, 28, 28)
    np.testing.assert_allclose(
        chromium.run("networks[0].each[0]"), weights.load(file)(image)[0], atol=0.05
    )


def pen_lines(image: np.ndarray) -> list[np.ndarray]:
    """Lines along the middle of a digit's strokes, points [row, column] in pixels of the image uint8[28, 28]."""
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
    """100 test images traced by the mouse at random places and sizes: how many are read is stated in docs/using.md."""
    images, labels = (
        idx.read(mnist_dir / f"t10k-{name}-ubyte.gz", n)
        for name, n in (("images-idx3", 3), ("labels-idx1", 1))
    )
    assert main([str(ROOT / "results" / "step_6_one"), "--out", str(tmp_path / "page.html")]) == 0
    chromium.open(tmp_path / "page.html")
    generator, right = np.random.default_rng(0), 0
    for image, label in zip(images[:100], labels, strict=False):
        scale = generator.uniform(4, 9)  # canvas pixels of one of the image's
        corner = (
            generator.uniform(0, 280 - 20 * scale, 2) - 4 * scale
        )  # of the image, whose margin is 4
        for line in pen_lines(image):
            draw(chromium, [((corner + point * scale) / 280)[::-1] for point in line], wait=False)
        chromium.wait(f"!due && {ANSWERED}")
        right += chromium.run("document.querySelector('.digit').textContent") == f"{label}"
        chromium.run("document.getElementById('clear').click()")
    assert right >= 96
    stated = re.search(r"(\d+) of 100", (ROOT / "docs" / "using.md").read_text())
    assert stated and abs(int(stated[1]) - right) <= 1, right
