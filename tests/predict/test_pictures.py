"""Read pictures: formats, sizes, colours, light, and the layouts of the training images."""

import gzip
from io import BytesIO

import numpy as np
import pytest
from pictures import DIGITS, assert_close, drawn, read
from PIL import Image

from jaxdrill import predict
from jaxdrill.data import idx
from jaxdrill.data.preparation import MNIST, Preparation, is_mnist
from jaxdrill.errors import RunError


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
    moved = np.roll(images[0], 3, axis=1)  # 28x28, but not centred
    assert not is_mnist(moved)
    back = read(tmp_path, Image.fromarray(moved)).astype(int)
    assert abs(back - images[0]).mean() < abs(moved.astype(int) - images[0]).mean() / 2


def test_size_and_position_do_not_matter(tmp_path):
    expected = read(tmp_path, drawn(3))
    for side, margin in ((100, 5), (160, 300), (900, 200), (1500, 400)):
        assert_close(read(tmp_path, drawn(3, side, margin)), expected)
    wide = Image.new("L", (700, 250), 255)
    wide.paste(drawn(3), (430, 3))
    assert_close(read(tmp_path, wide), expected)


def variants() -> dict[str, tuple[Image.Image, dict]]:
    """Return the same digit as other users would save it."""
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
    turned[0x0112] = 6  # rotate by 90 degrees clockwise
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
def test_formats_and_colors_do_not_matter(tmp_path, name):
    image, options = variants()[name]
    assert_close(read(tmp_path, image, **options), read(tmp_path, drawn(3)))


def test_specks_are_removed(tmp_path):
    image = drawn(3)
    image.putpixel((5, 5), 0)
    image.putpixel((230, 9), 0)
    assert_close(read(tmp_path, image), read(tmp_path, drawn(3)))


def test_small_pictures(tmp_path):
    """Read scikit-learn's 8x8 pixels, and a line that is one pixel wide."""
    for image in DIGITS.images[:20]:
        assert read(tmp_path, Image.fromarray((255 - image * 15.9).astype(np.uint8))).max() == 255
    line = np.full((28, 28), 255, np.uint8)
    line[4:24, 14] = 0
    assert read(tmp_path, Image.fromarray(line))[:, 14].sum() > 20 * 200


def test_deep_pictures(tmp_path):
    """Read floating-point pixels of any range. Reject 16-bit noise and pixels that are NaN."""
    expected, grey = read(tmp_path, drawn(3)), np.asarray(drawn(3), np.float32)
    for scale in (1 / 255, 1, 257):
        assert_close(read(tmp_path, Image.fromarray(grey * scale), "digit.tiff"), expected)
    assert_close(read(tmp_path, Image.fromarray(grey / 255 - 0.5), "digit.tiff"), expected)
    noise = np.random.default_rng(0).integers(0, 60, (100, 100), dtype=np.uint16)
    with pytest.raises(RunError, match="is blank"):
        read(tmp_path, Image.fromarray(noise))
    with pytest.raises(RunError, match=r"contains pixels that are not numbers$"):
        read(tmp_path, Image.fromarray(np.full((100, 100), np.nan, np.float32)), "digit.tiff")


def png(image: Image.Image) -> bytes:
    image.save(content := BytesIO(), "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an image of a known format"),
        (b"text", "is not an image of a known format"),
        (png(drawn(3))[:300], "cannot be read|is damaged"),
        (
            png(Image.new("1", (20_000, 20_000))),
            "has more than 50,000,000 pixels. Make it smaller.",
        ),
        (png(Image.new("1", (5_001, 10_000))), "has more than 50,000,000 pixels. Make it smaller."),
    ],
)
def test_files_that_are_not_pictures(tmp_path, content, message):
    (tmp_path / "digit.png").write_bytes(content)
    with pytest.raises(RunError, match=rf"^{tmp_path}/digit\.png ({message})"):
        predict.read_picture(tmp_path / "digit.png")


def test_missing_files(tmp_path):
    with pytest.raises(RunError, match=r"cannot be read \(No such file or directory\)$"):
        predict.read_picture(tmp_path / "digit.png")
    with pytest.raises(RunError, match=r"cannot be read \(Is a directory\)$"):
        predict.read_picture(tmp_path)


def test_mnist_inverted_is_prepared_to_the_same_pixels(tmp_path, mnist_dir):
    image = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)[856]
    assert np.array_equal(read(tmp_path, Image.fromarray(255 - image)), image)
    dark = Preparation("mnist", "dark_on_light")
    for each in (image, 255 - image):
        assert np.array_equal(predict.prepare(each, dark), 255 - image)


@pytest.mark.parametrize("layout", ["full_frame", "isolated"])
@pytest.mark.parametrize("polarity", ["light_on_dark", "dark_on_light"])
def test_pictures_of_the_training_size_are_not_changed(tmp_path, layout, polarity):
    picture = np.zeros((28, 28), np.uint8)
    picture[3:9, 11:20] = np.random.default_rng(0).integers(0, 256, (6, 9))
    picture = picture if polarity == "light_on_dark" else 255 - picture
    Image.fromarray(picture).save(tmp_path / "digit.png")
    assert np.array_equal(
        predict.read_picture(tmp_path / "digit.png", Preparation(layout, polarity, 24)), picture
    )


def test_whole_pictures_are_padded_and_resized():
    """The padding has the grey level of the edges, and the picture is not inverted."""
    picture = np.full((28, 56), 200, np.uint8)
    picture[:, 20:36] = 10
    seen = predict.prepare(picture, Preparation("full_frame", "light_on_dark", 28))
    assert seen.shape == (28, 28) and (seen[:5] == 200).all() and (seen[23:] == 200).all()
    assert (seen[12:16, 12:16] == 10).all() and (seen[:, :7] == 200).all()


def test_isolated_pictures_are_scaled_to_the_training_box():
    """The digit has 24 pixels in the middle, and the polarity of the training images."""
    picture = np.asarray(drawn(3))
    light = predict.prepare(picture, Preparation("isolated", "light_on_dark", 24))
    rows = np.flatnonzero((light > 8).any(1))
    assert (rows[0], rows[-1]) == (2, 25) and light.max() == 255
    assert np.array_equal(
        predict.prepare(picture, Preparation("isolated", "dark_on_light", 24)), 255 - light
    )
    assert not np.array_equal(predict.prepare(picture, MNIST), light)
