"""Prepare pictures for networks that were trained on other data than MNIST."""

import numpy as np
import pytest
from conftest import ROOT, TINY, idx_bytes
from pictures import picture, predictions
from PIL import Image
from runs_on_disk import write_trained
from sklearn.datasets import load_digits

from jaxdrill import weights
from jaxdrill.data import digits, idx
from jaxdrill.data.preparation import FULL_FRAME, MNIST, Preparation, measure
from jaxdrill.errors import RunError
from jaxdrill.export import export
from jaxdrill.main import main as train
from jaxdrill.predict.__main__ import main

RUN = ROOT / "results" / "step_6_one"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_trained(tmp_path_factory.mktemp("run"), "6_small", (1, 2))


def custom(layout: str, dark: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits as uint8[N, 28, 28], with or without a margin, and labels."""
    values, labels = load_digits(return_X_y=True)
    images = digits.draw(values.reshape(-1, 8, 8), 3.5 if layout == "full_frame" else 2.5, 0, 0)[
        ..., 0
    ]
    return (255 - images if dark else images), labels.astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("layout", ["full_frame", "isolated"])
def test_pictures_of_custom_data_are_predicted_as_its_idx_file(tmp_path, capsys, layout, dark):
    """Train on four idx files. PNG and idx files of 60 images give the same probabilities."""
    images, labels = custom(layout, dark)
    folder = tmp_path / "data"
    folder.mkdir()
    for part, span in (("train", slice(360, None)), ("test", slice(0, 360))):
        (folder / f"{part}-images").write_bytes(idx_bytes(images[span]))
        (folder / f"{part}-labels").write_bytes(idx_bytes(labels[span]))
    (tmp_path / "tiny.toml").write_text(TINY.replace("479", "64"))
    command = [
        "--step",
        str(tmp_path / "tiny.toml"),
        "--data",
        "my_digits",
        "--data-dir",
        str(folder),
    ]
    assert train([*command, "--workdir", str(tmp_path / "run")]) == 0
    polarity = "dark_on_light" if dark else "light_on_dark"
    found = weights.read_weights(weights.find(tmp_path / "run")).preparation
    assert (found.layout, found.polarity) == (layout, polarity)
    (tmp_path / "idx").write_bytes(idx_bytes(images[:60]))
    files = [picture(tmp_path, f"{n:02}.png", image) for n, image in enumerate(images[:60])]
    capsys.readouterr()
    assert main([str(tmp_path / "run"), str(tmp_path / "idx"), *files, "--json"]) == 0
    told = [each["probabilities"] for each in predictions(capsys)]
    assert told[:60] == told[60:] and len(told) == 120


@pytest.mark.parametrize("dark", [False, True])
def test_the_preparation_of_mnist_is_measured(mnist_dir, dark):
    """Measure MNIST itself, translated by 3 pixels, and stretched to the full frame."""
    images = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)[:1000]
    polarity = "dark_on_light" if dark else "light_on_dark"
    large = np.stack(
        [np.asarray(Image.fromarray(image[4:24, 4:24]).resize((28, 28))) for image in images]
    )
    for layout, box, made in (
        ("mnist", 20, images),
        ("isolated", 20, np.roll(images, 3, (1, 2))),
        ("full_frame", 28, large),
    ):
        found = measure("mine", (255 - made if dark else made)[..., None])
        assert (found.layout, found.polarity) == (layout, polarity) and abs(found.box - box) <= 1


def test_weights_without_a_record(trained):
    """The weights in results/ record only the name of their dataset, MNIST."""
    assert weights.read_weights(weights.find(RUN, 1)).preparation == MNIST
    assert weights.read_weights(weights.find(trained, 1)).preparation == MNIST
    assert measure("fashion_mnist", np.zeros((1, 28, 28, 1), np.uint8)) == FULL_FRAME


@pytest.mark.parametrize(
    "record",
    [
        {"layout": "other"},
        {"polarity": "grey"},
        {"box": 0},
        {"box": "20"},
        {"colour": 1},
        [],
        None,
        3,
    ],
)
def test_damaged_records(trained, tmp_path, record):
    arrays, recipe, _ = weights.read_weights(weights.find(trained, 1))
    weights.write_weights(
        file := tmp_path / "seed_1.safetensors", arrays, recipe, {"preparation": record}
    )
    with pytest.raises(RunError) as raised:
        weights.read_weights(file)
    message = f"{file} is damaged: its metadata cannot be read (preparation is {record})."
    assert str(raised.value) == f"{message} Rerun the command that trained it."


def test_the_record_survives_export(trained, tmp_path):
    arrays, recipe, _ = weights.read_weights(weights.find(trained, 1))
    made = Preparation("isolated", "dark_on_light", 24)
    weights.write_weights(
        file := tmp_path / "seed_1.safetensors", arrays, recipe, {"preparation": made.as_table()}
    )
    kept = export(file, "safetensors", out=tmp_path / "kept.safetensors", fold=False)
    assert weights.read_weights(kept).preparation == made
