"""The command `predict`: what it prints, of good images and bad ones, and how often it is right."""

import gzip
import json
import re

import numpy as np
import pytest
from conftest import ROOT, TINY, idx_bytes
from PIL import Image
from runs_on_disk import write_trained
from sklearn.datasets import load_digits

from jaxdrill import weights
from jaxdrill.array_files import read_npz
from jaxdrill.data import digits as embedded
from jaxdrill.data import idx
from jaxdrill.data.preparation import FULL_FRAME, MNIST, Preparation, measure
from jaxdrill.errors import RunError
from jaxdrill.export.__main__ import export
from jaxdrill.main import main as train
from jaxdrill.predict.__main__ import main
from jaxdrill.runs.folder import predictions_file

RUN = ROOT / "results" / "step_6_one"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_trained(tmp_path_factory.mktemp("run"), "6_small", (1, 2))


def picture(folder, name: str, image: np.ndarray):
    Image.fromarray(image).save(folder / name)
    return str(folder / name)


def answers(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_an_image(trained, digits, tmp_path, capsys):
    """The ensemble's answer is that of the mean probability."""
    files = [picture(tmp_path, f"{n}.png", digits.test_images[n, ..., 0]) for n in range(3)]
    assert main([str(trained), *files, "--json"]) == 0
    told = answers(capsys)
    assert [each["image"] for each in told] == files
    for each in told:
        seeds = np.array([each["seeds"]["1"], each["seeds"]["2"]])
        np.testing.assert_allclose(seeds.mean(0), each["probabilities"], atol=2e-6)
        assert (
            each["digit"] == int(np.argmax(each["probabilities"]))
            and abs(seeds.sum(1) - 1).max() < 1e-5
        )
    assert main([str(trained), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, each in zip(lines, told, strict=True):
        assert line.startswith(
            f"{each['image']}: {each['digit']} {100 * max(each['probabilities']):.1f} % (seed 1: "
        )


def test_one_seed_by_its_file(trained, digits, tmp_path, capsys):
    file = picture(tmp_path, "digit.png", digits.test_images[0, ..., 0])
    assert main([str(weights.find(trained, 2)), file, "--json"]) == 0
    (told,) = answers(capsys)
    assert list(told["seeds"]) == ["file"] and told["seeds"]["file"] == told["probabilities"]


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_and_folders(trained, digits, tmp_path, capsys, packed):
    images = digits.test_images[:502, ..., 0]  # more than one batch
    content = idx_bytes(images)
    (tmp_path / "images").write_bytes(gzip.compress(content) if packed else content)
    assert main([str(trained), str(tmp_path / "images"), "--json"]) == 0
    told = answers(capsys)
    assert [each["image"] for each in told] == [
        f"{tmp_path / 'images'}[{n}]" for n in range(len(images))
    ]
    expected = np.mean([weights.load(trained, seed)(images) for seed in (1, 2)], 0)
    np.testing.assert_allclose([each["probabilities"] for each in told], expected, atol=1e-5)
    (tmp_path / "images").unlink()
    (tmp_path / ".hidden").write_text("")
    names = [picture(tmp_path, name, images[0]) for name in ("a.png", "b.png")]
    assert main([str(trained), str(tmp_path), "--json"]) == 0
    assert [each["image"] for each in answers(capsys)] == names


def test_bad_images_get_a_line_and_the_rest_go_on(trained, digits, tmp_path, capsys):
    good = picture(tmp_path, "good.png", digits.test_images[0, ..., 0])
    blank = picture(tmp_path, "blank.png", np.zeros((50, 50), np.uint8))
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "cut").write_bytes(idx_bytes(digits.test_images[:2, ..., 0])[:-1])
    (tmp_path / "empty").mkdir()
    bad = [blank, *(str(tmp_path / name) for name in ("text.png", "cut", "empty", "nothing.png"))]
    assert main([str(trained), *bad, good]) == 1
    output = capsys.readouterr()
    assert output.out.startswith(f"{good}: ") and output.out.count("\n") == 1
    *lines, last = output.err.splitlines()
    reasons = (
        "is blank",
        "is no image of a known kind",
        "is damaged",
        "holds no images",
        "cannot be read",
    )
    assert len(lines) == 5
    assert all(
        line.startswith(f"jaxdrill: {file} {why}")
        for line, file, why in zip(lines, bad, reasons, strict=True)
    )
    assert last == "jaxdrill: 5 image(s) could not be read"


def test_idx_files_of_another_size_or_layout(trained, digits, tmp_path, capsys):
    (tmp_path / "small").write_bytes(idx_bytes(np.zeros((3, 8, 8), np.uint8)))
    images = digits.test_images[:5, ..., 0]
    (tmp_path / "images").write_bytes(idx_bytes(images))
    (tmp_path / "emnist-images").write_bytes(idx_bytes(images.swapaxes(1, 2)))
    assert (
        main(
            [
                str(trained),
                *(str(tmp_path / name) for name in ("small", "images", "emnist-images")),
                "--json",
            ]
        )
        == 1
    )
    output = capsys.readouterr()
    assert f"{tmp_path}/small holds images of 8x8; allowed: 28x28\n" in output.err
    told = [json.loads(line)["probabilities"] for line in output.out.splitlines()]
    assert told[:5] == told[5:] and len(told) == 10


def test_idx_files_of_a_network_trained_on_emnist(digits, tmp_path, capsys):
    """They are turned upright whatever their name, as the training images were."""
    run = write_trained(tmp_path / "run", "5", [1])
    arrays, recipe = weights.read_weights(file := weights.find(run))
    weights.write_weights(
        file, arrays, recipe.model_copy(update={"data": "emnist_digits"}), {"seed": 1}
    )
    images = digits.test_images[:5, ..., 0]
    (tmp_path / "images").write_bytes(idx_bytes(images.swapaxes(1, 2)))
    assert main([str(run), str(tmp_path / "images"), "--json"]) == 0
    found = [each["probabilities"] for each in answers(capsys)]
    np.testing.assert_allclose(found, weights.load(file)(images), atol=1e-5)


def test_what_the_networks_saw(trained, digits, tmp_path, capsys):
    files = [picture(tmp_path, f"{n}.png", digits.test_images[n, ..., 0]) for n in range(2)]
    assert main([str(trained), *files, "--show", str(tmp_path / "seen.png")]) == 0
    with Image.open(tmp_path / "seen.png") as image:
        seen = np.asarray(image)
    assert seen.shape == (120, 240) and seen[60, 0] == 128 and seen[4:116, 4:116].max() == 255
    (tmp_path / "many").write_bytes(idx_bytes(digits.test_images[:300, ..., 0]))
    assert main([str(trained), str(tmp_path / "many"), "--show", str(tmp_path / "seen.png")]) == 0
    with Image.open(tmp_path / "seen.png") as image:
        assert image.size == (16 * 120, 16 * 120)
    assert "seen.png shows the first 256 of 300 images" in capsys.readouterr().err
    assert main([str(trained), files[0], "--show", f"{files[0]}/seen.png"]) == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN"], 2, "the following arguments are required: IMAGE"),
        (
            ["nowhere", "x.png"],
            1,
            "nowhere holds no weights; a finished seed leaves weights/seed_N.safetensors",
        ),
        (["RUN", "x.png", "--jsno"], 2, "--jsno is unknown; did you mean --json?"),
    ],
)
def test_mistakes(trained, arguments, code, message, capsys):
    assert main([str(trained) if argument == "RUN" else argument for argument in arguments]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.slow
def test_mnist_as_pictures(mnist_dir, tmp_path, capsys):
    """Every test image as a PNG file: the run's own accuracy, to the last image."""
    images = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:05}.png", compress_level=1)
    assert main([str(weights.find(RUN, 1)), str(tmp_path), "--json"]) == 0
    found = np.array([each["digit"] for each in answers(capsys)])
    kept = read_npz(predictions_file(RUN, 1))
    assert np.array_equal(found, kept["predicted"])
    assert (found == kept["labels"]).mean() > 0.99


def test_other_peoples_digits(tmp_path, capsys):
    """300 of scikit-learn's digits, drawn large, dark on light: as many are read as docs/using.md says."""
    images, labels = load_digits(return_X_y=True)
    for number, image in enumerate(images[:300].reshape(-1, 8, 8)):
        ink = Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize(
            (200, 200), Image.Resampling.BICUBIC
        )
        paper = Image.new("L", (300, 340), 255)
        paper.paste(0, (60, 40), ink)
        paper.save(tmp_path / f"{number:03}.png")
    assert main([str(RUN), str(tmp_path), "--json"]) == 0
    found = np.array([each["digit"] for each in answers(capsys)])
    right = int((found == labels[:300]).sum())
    stated = re.search(r"together read (\d+)", (ROOT / "docs" / "using.md").read_text())
    assert stated and abs(int(stated[1]) - right) <= 2 and right > 280


def custom(layout: str, dark: bool) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits as images uint8[N, 28, 28] that fill them, or as in the dataset digits."""
    values, labels = load_digits(return_X_y=True)
    images = embedded.draw(values.reshape(-1, 8, 8), 3.5 if layout == "full_frame" else 2.5, 0, 0)[
        ..., 0
    ]
    return (255 - images if dark else images), labels.astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("layout", ["full_frame", "isolated"])
def test_pictures_of_custom_data_are_predicted_as_its_idx_file(tmp_path, capsys, layout, dark):
    """Train on four idx files; each of 60 test images gets the same probabilities from PNG and idx files."""
    images, labels = custom(layout, dark)
    folder = tmp_path / "data"
    folder.mkdir()
    for part, span in (("train", slice(360, None)), ("test", slice(0, 360))):
        (folder / f"{part}-images").write_bytes(idx_bytes(images[span]))
        (folder / f"{part}-labels").write_bytes(idx_bytes(labels[span]))
    (tmp_path / "tiny.toml").write_text(TINY.replace("512", "64"))
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
    found = weights.preparation(weights.find(tmp_path / "run"))
    assert (found.layout, found.polarity) == (layout, polarity)
    (tmp_path / "idx").write_bytes(idx_bytes(images[:60]))
    files = [picture(tmp_path, f"{n:02}.png", image) for n, image in enumerate(images[:60])]
    capsys.readouterr()
    assert main([str(tmp_path / "run"), str(tmp_path / "idx"), *files, "--json"]) == 0
    told = [each["probabilities"] for each in answers(capsys)]
    assert told[:60] == told[60:] and len(told) == 120


@pytest.mark.parametrize("dark", [False, True])
def test_the_preparation_of_mnist_is_measured(mnist_dir, dark):
    """Whole, under another name, with all images translated by 3 pixels, and stretched to the full frame."""
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
    """Those of results/ name their dataset, MNIST."""
    assert weights.preparation(weights.find(RUN, 1)) == MNIST
    assert weights.preparation(weights.find(trained, 1)) == MNIST
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
    arrays, recipe = weights.read_weights(weights.find(trained, 1))
    weights.write_weights(
        file := tmp_path / "seed_1.safetensors", arrays, recipe, {"preparation": record}
    )
    with pytest.raises(RunError) as raised:
        weights.preparation(file)
    message = f"{file} is damaged: its metadata cannot be read (preparation is {record}). Train the seed again."
    assert str(raised.value) == message


def test_the_record_survives_export(trained, tmp_path):
    arrays, recipe = weights.read_weights(weights.find(trained, 1))
    made = Preparation("isolated", "dark_on_light", 24)
    weights.write_weights(
        file := tmp_path / "seed_1.safetensors", arrays, recipe, {"preparation": made.as_table()}
    )
    kept = export(file, "safetensors", out=tmp_path / "kept.safetensors", fold=False)
    assert weights.preparation(kept) == made
