"""Read pictures of handwritten digits and prepare them for a trained network."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxdrill.data import idx
from jaxdrill.data.preparation import MNIST, SIDE, Preparation, frame, is_mnist
from jaxdrill.errors import RunError
from jaxdrill.files import check_regular_file
from jaxdrill.predict import digit

MAX_SIDE = 1024  # pixels; larger pictures are reduced first
MAX_PIXELS = 50_000_000  # of a file
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # EPS could run a program


def read_images(
    paths: Sequence[Path], preparation: Preparation, dataset: str
) -> Iterator[tuple[str, np.ndarray | RunError]]:
    """Read pictures, folders of pictures, and idx files of images.

    Args:
        paths: files, or folders without subfolders. Hidden files in a folder are skipped.
        preparation: how pictures are prepared. The images of idx files are not changed.
        dataset: the name of the training data. Images of idx files have the same orientation.

    Yields:
        The name of each image, and its pixels uint8[28, 28] or the error.
    """
    for path in paths:
        files = [path]
        if path.is_dir():
            inside = sorted(path.iterdir())
            files = [file for file in inside if file.is_file() and file.name[0] != "."]
        if not files:
            yield f"{path}", RunError(f"{path} contains no images")
        for file in files:
            try:
                if not idx.is_idx(file):
                    yield f"{file}", read_picture(file, preparation)
                    continue
                images = idx.read(file, 3, dataset)
                if images.shape[1:] != (SIDE, SIDE):
                    size = f"{images.shape[1]}x{images.shape[2]}"
                    raise RunError(f"{file} contains images of {size}; allowed: {SIDE}x{SIDE}")
                yield from ((f"{file}[{n}]", image) for n, image in enumerate(images))
            except RunError as error:
                yield f"{file}", error


def read_picture(path: Path, preparation: Preparation = MNIST) -> np.ndarray:
    """Read an image file and prepare it for a network.

    Args:
        path: a picture of any size, in color or grey, with or without alpha. Its EXIF orientation
            is applied. Only the first frame of an animation is read.
        preparation: the preparation that the network needs, as `weights.read_weights` returns it.

    Returns:
        An image uint8[28, 28], 0..255, like the training images.

    Raises:
        RunError: the file cannot be read, is too large, is blank, or shows several digits.
    """
    try:
        return prepare(_read_grey(path), preparation)
    except RunError as error:
        raise RunError(f"{path} {error}") from error


def prepare(grey: np.ndarray, preparation: Preparation = MNIST) -> np.ndarray:
    """Make a picture uint8[H, W], 0 is black, look like the training images.

    A picture that already looks like a training image is returned unchanged. The layout of the
    preparation decides:

    - `mnist`: the picture is 28x28 and its digit is scaled and centred as in MNIST. A negative is
      inverted.
    - `isolated`: the picture is 28x28 and its background is as light or dark as that of the
      training images.
    - `full_frame`: the picture is 28x28. Other pictures are padded to a square with the median of
      their outermost pixels, and resized. They are never inverted.

    In all other pictures, the digit is found, scaled and centred.

    Returns:
        An image uint8[28, 28].

    Raises:
        RunError: the picture is blank, or shows several digits.
    """
    layout, dark_on_light = preparation.layout, preparation.is_dark_on_light
    small = grey.shape == (SIDE, SIDE)
    if layout == "full_frame":
        return grey if small else _pad_and_resize(grey)
    if layout == "isolated" and small and (np.median(frame(grey)) > 127) == dark_on_light:
        return grey
    ready = [image for image in (grey, 255 - grey) if layout == "mnist" and is_mnist(image)]
    if not ready:
        ready = [digit.centred(digit.find(grey), preparation.box, layout == "mnist")]
    return 255 - ready[0] if dark_on_light else ready[0]


def _pad_and_resize(grey: np.ndarray) -> np.ndarray:
    """Pad a picture to a square and resize it to 28x28: bicubic, antialiased."""
    height, width = grey.shape
    side = max(height, width)
    square = np.full((side, side), np.median(frame(grey)), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = grey
    return np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _read_grey(path: Path) -> np.ndarray:
    """Read an image file as grey levels uint8[H, W]. Reduce sides of more than MAX_SIDE pixels.

    Raises:
        RunError: the file cannot be read, is too large, or is damaged. The message starts without
        the path.
    """
    try:
        check_regular_file(path)
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            mode = image.mode
            deep = mode.startswith(("I", "F"))  # Pillow's conversion to L would clip these at 255.
            clear = image.has_transparency_data and not deep
            mode_read = "RGBA" if clear else "F" if deep else "L"
            image = ImageOps.exif_transpose(image).convert(mode_read)
            image = image.reduce(max(1, -(-max(image.size) // MAX_SIDE)))
        image = _on_paper(image) if clear else image
        return _to_8_bits(np.asarray(image), mode) if deep else np.asarray(image)
    except Image.DecompressionBombError as error:
        raise RunError(f"has more than {MAX_PIXELS:,} pixels. Make it smaller.") from error
    except RunError:
        raise
    except UnidentifiedImageError as error:
        raise RunError(f"is not an image of a known format: {', '.join(FORMATS)}") from error
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # Pillow's decoders have no common error for damaged files.
        raise RunError(f"is damaged ({type(error).__name__})") from error


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Convert pixels float32[H, W] of a Pillow mode with 16 bits or more to uint8[H, W].

    White is 65535 in modes of integers (`I`). In `F` it is the smallest of 1, 255 and 65535 that no
    pixel exceeds.
    """
    if not np.isfinite(values).all():
        raise RunError("contains pixels that are not numbers")
    values = values - min(values.min(), 0)
    known = () if mode.startswith("I") else (1, 255)
    white = next((white for white in known if values.max() <= white), 65535)
    return np.minimum(values * (255 / white), 255).astype(np.uint8)


def _on_paper(image: Image.Image) -> Image.Image:
    """Put an RGBA image on white if its strokes are dark, otherwise on black. Return it in grey."""
    grey, alpha = (np.asarray(band, float) for band in (image.convert("L"), image.getchannel("A")))
    paper = "white" if (grey * alpha).sum() < 128 * alpha.sum() else "black"
    return Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert("L")
