"""Pictures of one digit as a person has them, made into what a network saw."""

import gzip
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jaxdrill.deploy import digit
from jaxdrill.errors import RunError
from jaxdrill.preparation import is_mnist

DIGITS = load_digits()


def drawn(number: int, side: int = 160, margin: int = 40) -> Image.Image:
    """A digit of scikit-learn's in black on white, `side` pixels wide, with a margin."""
    ink = Image.fromarray((DIGITS.images[number] * (255 / 16)).astype(np.uint8)).resize((side, side), Image.BICUBIC)
    paper = Image.new("L", (side + 2 * margin, side + 2 * margin), 255)
    paper.paste(0, (margin, margin), ink)
    return paper


def read(tmp_path, image: Image.Image, name="digit.png", **options) -> np.ndarray:
    image.save(tmp_path / name, **options)
    return digit.read(tmp_path / name)


def assert_close(a: np.ndarray, b: np.ndarray) -> None:
    """Equal but for the rounding of grey levels along the edges."""
    difference = abs(a.astype(int) - b)
    assert difference.mean() < 2 and difference.max() < 60, (difference.mean(), difference.max())


@pytest.mark.parametrize("number", range(10))
def test_scaled_and_placed_as_mnist(tmp_path, number):
    seen = read(tmp_path, drawn(number))
    spans = [np.flatnonzero(seen.any(axis)) for axis in (1, 0)]
    assert max(span[-1] - span[0] + 1 for span in spans) in (20, 21)  # a box of 20 may touch 21 pixels
    for axis in (1, 0):
        assert (seen.sum(axis) * (np.arange(28) + 0.5)).sum() / seen.sum() == pytest.approx(14.5, abs=0.05)
    assert seen.max() == 255


def test_mnist_itself_is_not_changed(tmp_path, mnist_dir):
    content = gzip.decompress((mnist_dir / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    images = np.frombuffer(content, np.uint8).reshape(-1, 28, 28)
    assert all(is_mnist(image) for image in images)
    for image in images[:100]:
        assert np.array_equal(read(tmp_path, Image.fromarray(image)), image)
    moved = np.roll(images[0], 3, axis=1)  # 28x28, but not in its place
    assert not is_mnist(moved)
    back = read(tmp_path, Image.fromarray(moved)).astype(int)
    assert abs(back - images[0]).mean() < abs(moved.astype(int) - images[0]).mean() / 2


def test_size_and_place_do_not_matter(tmp_path):
    expected = read(tmp_path, drawn(3))
    for side, margin in ((100, 5), (160, 300), (900, 200), (1500, 400)):
        assert_close(read(tmp_path, drawn(3, side, margin)), expected)
    wide = Image.new("L", (700, 250), 255)
    wide.paste(drawn(3), (430, 3))
    assert_close(read(tmp_path, wide), expected)


def variants() -> dict[str, tuple[Image.Image, dict]]:
    """The same digit as other people would save it."""
    black = drawn(3)
    grey = np.asarray(black)
    blue = np.stack([grey, grey, 128 + grey // 2], -1)
    clear = Image.fromarray(np.dstack([np.zeros((*grey.shape, 3), np.uint8), 255 - grey]), "RGBA")
    white = Image.fromarray(np.dstack([np.full((*grey.shape, 3), 255, np.uint8), 255 - grey]), "RGBA")
    lit = (grey * np.linspace(0.6, 1, grey.shape[1])).astype(np.uint8)
    noisy = np.clip(grey.astype(int) + np.random.default_rng(0).normal(0, 6, grey.shape), 0, 255).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    return {
        "light on dark": (Image.fromarray(255 - grey), {}),
        "colour": (Image.fromarray(blue), {}),
        "palette": (Image.fromarray(blue).convert("P", palette=Image.Palette.ADAPTIVE), {}),
        "black on nothing": (clear, {}),
        "white on nothing": (white, {}),
        "16 bits": (Image.fromarray(grey.astype(np.uint16) * 257), {}),
        "grey on grey": (Image.fromarray((90 + grey // 4).astype(np.uint8)), {}),
        "lit from one side": (Image.fromarray(lit), {}),
        "noise": (Image.fromarray(noisy), {}),
        "JPEG": (Image.fromarray(blue), {"name": "digit.jpg", "quality": 60}),
        "turned": (black.rotate(90), {"name": "digit.jpg", "exif": turned}),
    }


@pytest.mark.parametrize("name", list(variants()))
def test_how_it_is_saved_does_not_matter(tmp_path, name):
    image, options = variants()[name]
    assert_close(read(tmp_path, image, **options), read(tmp_path, drawn(3)))


def test_a_speck_is_no_digit(tmp_path):
    image = drawn(3)
    image.putpixel((5, 5), 0)
    image.putpixel((230, 9), 0)
    assert_close(read(tmp_path, image), read(tmp_path, drawn(3)))


def test_small_pictures(tmp_path):
    """scikit-learn's own 8x8 pixels, and a line of one pixel's width."""
    for image in DIGITS.images[:20]:
        assert read(tmp_path, Image.fromarray((255 - image * 15.9).astype(np.uint8))).max() == 255
    line = np.full((28, 28), 255, np.uint8)
    line[4:24, 14] = 0
    assert read(tmp_path, Image.fromarray(line))[:, 14].sum() > 20 * 200


def test_deep_pictures(tmp_path):
    """Floating-point numbers of any range; noise of 16 bits is no digit, and what is no number is said."""
    expected, grey = read(tmp_path, drawn(3)), np.asarray(drawn(3), np.float32)
    for scale in (1 / 255, 1, 257):
        assert_close(read(tmp_path, Image.fromarray(grey * scale), "digit.tiff"), expected)
    assert_close(read(tmp_path, Image.fromarray(grey / 255 - 0.5), "digit.tiff"), expected)
    noise = np.random.default_rng(0).integers(0, 60, (100, 100), dtype=np.uint16)
    with pytest.raises(RunError, match="is blank"):
        read(tmp_path, Image.fromarray(noise))
    with pytest.raises(RunError, match=r"holds pixels that are no numbers$"):
        read(tmp_path, Image.fromarray(np.full((100, 100), np.nan, np.float32)), "digit.tiff")


def side_by_side() -> Image.Image:
    both = Image.new("L", (480, 240), 255)
    both.paste(drawn(1), (0, 0))
    both.paste(drawn(2), (240, 0))
    return both


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (side_by_side(), "shows 2 digits, side by side; cut it into one image a digit"),
        (side_by_side().rotate(90, expand=True), "shows 2 digits, one above the other; cut it into one image a digit"),
        (Image.new("L", (100, 100), 255), "is blank: no stroke stands out from its paper"),
        (Image.new("RGBA", (100, 100)), "is blank: no stroke stands out from its paper"),
        (Image.new("L", (7, 100), 0), "has 7 x 100 pixels; a digit needs at least 8 x 8"),
    ],
)
def test_no_digit_or_several(tmp_path, image, message):
    with pytest.raises(RunError, match=rf"^{tmp_path}/digit\.png {message}$"):
        read(tmp_path, image)


def png(image: Image.Image) -> bytes:
    image.save(content := BytesIO(), "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no image of a known kind"),
        (b"text", "is no image of a known kind"),
        (png(drawn(3))[:300], "cannot be read|is damaged"),
        (png(Image.new("1", (20_000, 20_000))), "has more than 50,000,000 pixels; make it smaller"),
        (png(Image.new("1", (5_001, 10_000))), "has more than 50,000,000 pixels; make it smaller"),
    ],
)
def test_files_that_are_no_pictures(tmp_path, content, message):
    (tmp_path / "digit.png").write_bytes(content)
    with pytest.raises(RunError, match=rf"^{tmp_path}/digit\.png ({message})"):
        digit.read(tmp_path / "digit.png")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(RunError, match=r"cannot be read \(No such file or directory\)$"):
        digit.read(tmp_path / "digit.png")
    with pytest.raises(RunError, match=r"cannot be read \(Is a directory\)$"):
        digit.read(tmp_path)
