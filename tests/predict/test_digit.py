"""Pictures of one digit as a person has them, made into what a network saw."""

import gzip
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from jaxdrill.data import idx
from jaxdrill.data.preparation import MNIST, Preparation, is_mnist
from jaxdrill.errors import RunError
from jaxdrill.predict import digit

DIGITS = load_digits()


def drawn(number: int, side: int = 160, margin: int = 40) -> Image.Image:
    """A digit of scikit-learn's in black on white, `side` pixels wide, with a margin."""
    ink = Image.fromarray((DIGITS.images[number] * (255 / 16)).astype(np.uint8)).resize(
        (side, side), Image.BICUBIC
    )
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
    assert max(span[-1] - span[0] + 1 for span in spans) in (
        20,
        21,
    )  # a box of 20 may touch 21 pixels
    for axis in (1, 0):
        assert (seen.sum(axis) * (np.arange(28) + 0.5)).sum() / seen.sum() == pytest.approx(
            14.5, abs=0.05
        )
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
    white = Image.fromarray(
        np.dstack([np.full((*grey.shape, 3), 255, np.uint8), 255 - grey]), "RGBA"
    )
    lit = (grey * np.linspace(0.6, 1, grey.shape[1])).astype(np.uint8)
    noisy = np.clip(
        grey.astype(int) + np.random.default_rng(0).normal(0, 6, grey.shape), 0, 255
    ).astype(np.uint8)
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
        (
            side_by_side().rotate(90, expand=True),
            "shows 2 digits, one above the other; cut it into one image a digit",
        ),
        (Image.new("L", (100, 100), 255), "is blank: no stroke stands out from its paper"),
        (Image.new("RGBA", (100, 100)), "is blank: no stroke stands out from its paper"),
        (
            Image.new("L", (2, 100)),
            "has 2 x 100 pixels; a digit needs at least 8 pixels in one direction and 3 in the other",
        ),
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


def with_lines(kind: str) -> Image.Image:
    """A 3 as `drawn`, 240 pixels wide, with lines of the paper or around it."""
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
    else:  # the digit reaches the edges, as the lines do
        image = image.crop((70, 40, 170, 200))
        draw = ImageDraw.Draw(image)
        for at in range(8, 160, 25):
            draw.line((0, at, 99, at), fill=60, width=2)
    with pytest.raises(RunError, match=rf"^{tmp_path}/digit\.png {message}$"):
        read(tmp_path, image)


@pytest.mark.parametrize("size", [(7, 120), (3, 40), (13, 120)])
def test_narrow_crops_of_a_1(tmp_path, size):
    """One column of ink in the place of MNIST's centre, 20 pixels high, in either polarity."""
    width, height = size
    picture = np.full((height, width), 240, np.uint8)
    picture[:, width // 2] = 40
    for each in (picture, 255 - picture):
        seen = read(tmp_path, Image.fromarray(each))
        rows, columns = (np.flatnonzero((seen > 64).any(axis)) for axis in (1, 0))
        assert len(rows) in (20, 21) and columns.tolist() in ([14], [13, 14])


def broken_zero() -> Image.Image:
    """A 0 whose two sides are not joined."""
    image = Image.new("L", (200, 240), 255)
    draw = ImageDraw.Draw(image)
    draw.arc((30, 30, 150, 210), 110, 250, fill=0, width=16)
    draw.arc((30, 30, 150, 210), 290, 70, fill=0, width=16)
    return image.crop((20, 20, 160, 220))


def test_a_broken_stroke_is_one_digit(tmp_path):
    seen = read(tmp_path, broken_zero())
    assert seen.any(1).sum() >= 20 and (seen[14] > 128).sum() >= 2 and not seen[14, 13:15].any()


def test_broken_strokes_in_mnist(mnist_dir):
    """Of 10,000 test images, found as in an inverted picture, one is taken for two digits."""
    images = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)
    broken = [856, 5331, 5618, 5661, 5676, 5746, 6573, 6574, 8020, 9469]
    for image in images[broken]:
        assert digit.find(255 - image).any()
    with pytest.raises(
        RunError, match=r"^shows 2 digits, one above the other; cut it into one image a digit$"
    ):
        digit.find(255 - images[6572])


def test_two_digits_of_mnist_side_by_side(mnist_dir):
    """100 pairs with a gap of 3 to 8 pixels of MNIST's: all but four at most are taken for two digits."""
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
            assert str(error) == "shows 2 digits, side by side; cut it into one image a digit"
    assert accepted <= 4


def test_mnist_inverted_is_prepared_to_the_same_pixels(tmp_path, mnist_dir):
    image = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)[856]
    assert np.array_equal(read(tmp_path, Image.fromarray(255 - image)), image)
    dark = Preparation("mnist", "dark_on_light")
    for each in (image, 255 - image):
        assert np.array_equal(digit.prepare(each, dark), 255 - image)


@pytest.mark.parametrize("layout", ["full_frame", "isolated"])
@pytest.mark.parametrize("polarity", ["light_on_dark", "dark_on_light"])
def test_pictures_of_the_training_size_are_not_changed(tmp_path, layout, polarity):
    picture = np.zeros((28, 28), np.uint8)
    picture[3:9, 11:20] = np.random.default_rng(0).integers(0, 256, (6, 9))
    picture = picture if polarity == "light_on_dark" else 255 - picture
    Image.fromarray(picture).save(tmp_path / "digit.png")
    assert np.array_equal(
        digit.read(tmp_path / "digit.png", Preparation(layout, polarity, 24)), picture
    )


def test_whole_pictures_are_padded_and_resized():
    """To a square with the grey of the edges, and nothing is inverted."""
    picture = np.full((28, 56), 200, np.uint8)
    picture[:, 20:36] = 10
    seen = digit.prepare(picture, Preparation("full_frame", "light_on_dark", 28))
    assert seen.shape == (28, 28) and (seen[:5] == 200).all() and (seen[23:] == 200).all()
    assert (seen[12:16, 12:16] == 10).all() and (seen[:, :7] == 200).all()


def test_isolated_pictures_are_scaled_to_the_training_box():
    """Into 24 pixels in the middle of the image, in the polarity of the training images."""
    picture = np.asarray(drawn(3))
    light = digit.prepare(picture, Preparation("isolated", "light_on_dark", 24))
    rows = np.flatnonzero((light > 8).any(1))
    assert (rows[0], rows[-1]) == (2, 25) and light.max() == 255
    assert np.array_equal(
        digit.prepare(picture, Preparation("isolated", "dark_on_light", 24)), 255 - light
    )
    assert not np.array_equal(digit.prepare(picture, MNIST), light)
