"""Find one digit in a picture: lines, boxes, narrow crops, broken strokes and several digits."""

import numpy as np
import pytest
from pictures import drawn, read
from PIL import Image, ImageDraw

from jaxdrill.data import idx
from jaxdrill.errors import RunError
from jaxdrill.predict import digit


def side_by_side() -> Image.Image:
    both = Image.new("L", (480, 240), 255)
    both.paste(drawn(1), (0, 0))
    both.paste(drawn(2), (240, 0))
    return both


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (side_by_side(), "shows 2 digits, side by side. Cut it into one image per digit."),
        (
            side_by_side().rotate(90, expand=True),
            "shows 2 digits, one above the other. Cut it into one image per digit.",
        ),
        (Image.new("L", (100, 100), 255), "is blank: no stroke stands out from its paper"),
        (Image.new("RGBA", (100, 100)), "is blank: no stroke stands out from its paper"),
        (
            Image.new("L", (2, 100)),
            "has 2 x 100 pixels; a digit needs at least 8 pixels in one direction and 3 in the "
            "other",
        ),
    ],
)
def test_blank_pictures_and_several_digits(tmp_path, image, message):
    with pytest.raises(RunError, match=rf"^{tmp_path}/digit\.png {message}$"):
        read(tmp_path, image)


def with_lines(kind: str) -> Image.Image:
    """Return a 3, 240 pixels wide, with ruled lines or a box."""
    image = drawn(3)
    draw = ImageDraw.Draw(image)
    if kind == "border":
        draw.rectangle((0, 0, 239, 239), outline=30, width=5)
    elif kind == "box":
        draw.rectangle((14, 20, 226, 218), outline=30, width=3)
    for at in range(15, 240, 42):
        if kind in ("ruled", "squared"):
            draw.line((0, at, 239, at), fill=120, width=2)
        if kind == "squared":
            draw.line((at, 0, at, 239), fill=120, width=2)
    return image


@pytest.mark.parametrize("light_on_dark", [False, True])
@pytest.mark.parametrize("kind", ["border", "box", "ruled", "squared"])
def test_lines_around_and_under_a_digit_are_removed(tmp_path, kind, light_on_dark):
    image = with_lines(kind)
    seen = read(tmp_path, Image.eval(image, lambda value: 255 - value) if light_on_dark else image)
    assert abs(seen.astype(int) - read(tmp_path, drawn(3))).mean() < 6


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("ring", "shows a digit inside a ring or a frame. Crop the picture inside it."),
        (
            "ruled",
            "shows ruled lines that cannot be told from the digit. Use a picture on blank paper.",
        ),
    ],
)
def test_lines_that_cannot_be_removed(tmp_path, shape, message):
    image = drawn(3)
    draw = ImageDraw.Draw(image)
    if shape == "ring":
        draw.ellipse((3, 3, 236, 236), outline=30, width=3)
    else:  # The digit reaches the edges, like the lines.
        image = image.crop((70, 40, 170, 200))
        draw = ImageDraw.Draw(image)
        for at in range(8, 160, 25):
            draw.line((0, at, 99, at), fill=60, width=2)
    with pytest.raises(RunError, match=rf"^{tmp_path}/digit\.png {message}$"):
        read(tmp_path, image)


@pytest.mark.parametrize("size", [(7, 120), (3, 40), (13, 120)])
def test_narrow_crops_of_a_1(tmp_path, size):
    """A column of ink becomes 20 pixels high, at the centre, in either polarity."""
    width, height = size
    picture = np.full((height, width), 240, np.uint8)
    picture[:, width // 2] = 40
    for each in (picture, 255 - picture):
        seen = read(tmp_path, Image.fromarray(each))
        rows, columns = (np.flatnonzero((seen > 64).any(axis)) for axis in (1, 0))
        assert len(rows) in (20, 21) and columns.tolist() in ([14], [13, 14])


def broken_zero() -> Image.Image:
    """Return a 0 whose two sides are not joined."""
    image = Image.new("L", (200, 240), 255)
    draw = ImageDraw.Draw(image)
    draw.arc((30, 30, 150, 210), 110, 250, fill=0, width=16)
    draw.arc((30, 30, 150, 210), 290, 70, fill=0, width=16)
    return image.crop((20, 20, 160, 220))


def test_a_broken_stroke_is_one_digit(tmp_path):
    seen = read(tmp_path, broken_zero())
    assert seen.any(1).sum() >= 20 and (seen[14] > 128).sum() >= 2 and not seen[14, 13:15].any()


def test_broken_strokes_in_mnist(mnist_dir):
    """One of 10,000 inverted test images is counted as two digits."""
    images = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)
    broken = [856, 5331, 5618, 5661, 5676, 5746, 6573, 6574, 8020, 9469]
    for image in images[broken]:
        assert digit.find(255 - image).any()
    with pytest.raises(
        RunError, match=r"^shows 2 digits, one above the other. Cut it into one image per digit.$"
    ):
        digit.find(255 - images[6572])


def test_two_digits_of_mnist_side_by_side(mnist_dir):
    """At least 96 of 100 pairs with a gap of 3 to 8 MNIST pixels are counted as two digits."""
    images, generator, accepted = (
        idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3),
        np.random.default_rng(0),
        0,
    )
    for _ in range(100):
        pair = [image[:, image.any(0)] for image in images[generator.integers(0, 10_000, 2)]]
        gaps = [np.zeros((28, width), np.uint8) for width in (4, generator.integers(3, 9), 4)]
        both = Image.fromarray(255 - np.hstack([gaps[0], pair[0], gaps[1], pair[1], gaps[2]]))
        try:
            digit.find(np.asarray(both.resize((both.width * 4, 112), Image.Resampling.BICUBIC)))
            accepted += 1
        except RunError as error:
            assert str(error) == "shows 2 digits, side by side. Cut it into one image per digit."
    assert accepted <= 4
