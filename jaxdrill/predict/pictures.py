"""Read the files of pictures as grey levels."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxdrill.errors import RunError
from jaxdrill.files import check_regular_file

MAX_SIDE = 1024  # pixels; a larger picture is reduced before anything else
MAX_PIXELS = 50_000_000  # of a file
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # EPS, for one, would run a program


def read_grey(path: Path) -> np.ndarray:
    """Read an image file as grey levels uint8[H, W], 0 is black.

    The file may be of any size, in colour or grey, with or without alpha. It is rotated as its EXIF data says. Only the
    first picture of an animation is read. Sides over MAX_SIDE pixels are reduced.

    Raises:
        RunError: the file cannot be read, is too large, or is damaged. The message begins without the path.
    """
    try:
        check_regular_file(path)
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(path, formats=FORMATS) as image,
        ):  # of large images
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            mode, deep = (
                image.mode,
                image.mode.startswith(("I", "F")),
            )  # deep: Pillow would cut it off at 255
            clear = image.has_transparency_data and not deep
            image = ImageOps.exif_transpose(image).convert(
                "RGBA" if clear else "F" if deep else "L"
            )
            image = image.reduce(max(1, -(-max(image.size) // MAX_SIDE)))
        values = np.asarray(_on_paper(image).convert("L") if clear else image)
        return _eight_bits(values, mode) if deep else values
    except Image.DecompressionBombError as error:
        raise RunError(f"has more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except RunError:
        raise
    except UnidentifiedImageError as error:
        raise RunError(f"is no image of a known kind: {', '.join(FORMATS)}") from error
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror or error})") from error
    except (
        Exception
    ) as error:  # Pillow's decoders name no common type for what a damaged file can do
        raise RunError(f"is damaged ({type(error).__name__})") from error


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Pixels float32[H, W] of a Pillow mode of 16 bits or more as uint8[H, W]. White is 65535 of whole numbers (`I`);
    of others it is 1, 255 or 65535, the least that none exceeds."""
    if not np.isfinite(values).all():
        raise RunError("holds pixels that are no numbers")
    values = values - min(values.min(), 0)
    white = (
        65535
        if mode.startswith("I")
        else next((white for white in (1, 255) if values.max() <= white), 65535)
    )
    return np.minimum(values * (255 / white), 255).astype(np.uint8)


def _on_paper(image: Image.Image) -> Image.Image:
    """An RGBA image on white if what is drawn is dark, else on black."""
    grey, alpha = (
        np.asarray(channel, np.float64) for channel in (image.convert("L"), image.getchannel("A"))
    )
    dark = (grey * alpha).sum() < 128 * alpha.sum()
    return Image.alpha_composite(Image.new("RGBA", image.size, "white" if dark else "black"), image)
