"""scikit-learn's digits as 28x28 images: the dataset that needs no network."""

import numpy as np

NUM_SOURCES = 1437  # digits that the training images are drawn from


def load_arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw scikit-learn's 1,797 handwritten digits (8x8, values 0..16) as 28x28 images.

    The 360 test digits, a fixed stratified split, are drawn once: centred, 20 pixels high. Each of
    the other 1,437 digits is drawn eight times: 18 and 22 pixels high, each translated by one pixel
    towards each corner. Training image n shows source digit n % NUM_SOURCES.

    Returns:
        Training images uint8[11496, 28, 28, 1], 0..255, and labels uint8[11496], 0..9; test images
        uint8[360, 28, 28, 1] and labels uint8[360].
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images, labels = images.reshape(-1, 8, 8), labels.astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, random_state=0, stratify=labels
    )
    corners = [(down, right) for down in (-1, 1) for right in (-1, 1)]
    training = np.concatenate(
        [draw(images[train], scale, *corner) for scale in (2.25, 2.75) for corner in corners]
    )
    return training, np.tile(labels[train], 8), draw(images[test], 2.5, 0, 0), labels[test]


def draw(images: np.ndarray, scale: float, down: int, right: int) -> np.ndarray:
    """Enlarge images by bilinear interpolation and translate them.

    All sums are of multiples of 1/64, so they are exact on every machine.

    Args:
        images: float64[N, 8, 8], 0..16.
        scale: pixels of the result per pixel of `images`.
        down: translation in pixels of the result.
        right: translation in pixels of the result.

    Returns:
        uint8[N, 28, 28, 1], 0..255.
    """
    out, source = np.arange(28) - 13.5, scale * (np.arange(8) - 3.5)  # pixels from the centre
    rows, columns = (
        np.maximum(0, scale - abs(out[:, None] - shift - source)) for shift in (down, right)
    )
    return np.round(rows @ images @ columns.T * (255 / 16 / scale**2)).astype(np.uint8)[..., None]
