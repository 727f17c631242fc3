"""Run the command `predict`: its output for good and bad images, and its accuracy."""

import gzip
import json
import re

import numpy as np
import pytest
from conftest import ROOT, idx_bytes
from pictures import picture, predictions
from PIL import Image
from runs_on_disk import write_trained
from sklearn.datasets import load_digits

from jaxdrill import weights
from jaxdrill.array_files import read_npz
from jaxdrill.data import idx
from jaxdrill.predict import __main__ as command
from jaxdrill.predict.__main__ import main
from jaxdrill.runs.folder import predictions_file

RUN = ROOT / "results" / "step_6_one"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_trained(tmp_path_factory.mktemp("run"), "6_small", (1, 2))


def test_one_line_per_image(trained, digits, tmp_path, capsys):
    """The ensemble predicts the digit with the highest mean probability."""
    files = [picture(tmp_path, f"{n}.png", digits.test_images[n, ..., 0]) for n in range(2)]
    assert main([str(trained), *files, "--json"]) == 0
    told = predictions(capsys)
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
    (told,) = predictions(capsys)
    assert list(told["seeds"]) == ["file"] and told["seeds"]["file"] == told["probabilities"]


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_and_folders(trained, digits, tmp_path, capsys, monkeypatch, packed):
    monkeypatch.setattr(command, "BATCH", 10)
    images = digits.test_images[:12, ..., 0]  # more than one batch
    content = idx_bytes(images)
    (tmp_path / "images").write_bytes(gzip.compress(content) if packed else content)
    assert main([str(trained), str(tmp_path / "images"), "--json"]) == 0
    told = predictions(capsys)
    assert [each["image"] for each in told] == [
        f"{tmp_path / 'images'}[{n}]" for n in range(len(images))
    ]
    expected = np.mean([weights.load(trained, seed)(images[:10]) for seed in (1, 2)], 0)
    np.testing.assert_allclose([each["probabilities"] for each in told[:10]], expected, atol=1e-5)
    expected = np.mean([weights.load(trained, seed)(images[10:]) for seed in (1, 2)], 0)
    np.testing.assert_allclose([each["probabilities"] for each in told[10:]], expected, atol=1e-5)
    (tmp_path / "images").unlink()
    (tmp_path / ".hidden").write_text("")
    names = [picture(tmp_path, name, images[0]) for name in ("a.png", "b.png")]
    assert main([str(trained), str(tmp_path), "--json"]) == 0
    assert [each["image"] for each in predictions(capsys)] == names


def test_bad_images_get_one_error_line_each(trained, digits, tmp_path, capsys):
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
        "is not an image of a known format",
        "is damaged",
        "contains no images",
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
    assert f"{tmp_path}/small contains images of 8x8; allowed: 28x28\n" in output.err
    told = [json.loads(line)["probabilities"] for line in output.out.splitlines()]
    assert told[:5] == told[5:] and len(told) == 10


def test_idx_files_of_a_network_trained_on_emnist(digits, tmp_path, capsys):
    """Images are transposed like the training images, whatever the name of their file."""
    run = write_trained(tmp_path / "run", "6_small", [1])
    arrays, recipe, _ = weights.read_weights(file := weights.find(run))
    weights.write_weights(
        file, arrays, recipe.model_copy(update={"data": "emnist_digits"}), {"seed": 1}
    )
    images = digits.test_images[:5, ..., 0]
    (tmp_path / "images").write_bytes(idx_bytes(images.swapaxes(1, 2)))
    assert main([str(run), str(tmp_path / "images"), "--json"]) == 0
    found = [each["probabilities"] for each in predictions(capsys)]
    np.testing.assert_allclose(found, weights.load(file)(images), atol=1e-5)


def test_the_picture_of_the_inputs(trained, digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "BATCH", 10)
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
            "nowhere contains no weights. Every seed that finishes training writes weights/seed_N",
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
    """PNG files of all test images get the predictions of the run."""
    images = idx.read(mnist_dir / "t10k-images-idx3-ubyte.gz", 3)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:05}.png", compress_level=1)
    assert main([str(weights.find(RUN, 1)), str(tmp_path), "--json"]) == 0
    found = np.array([each["digit"] for each in predictions(capsys)])
    kept = read_npz(predictions_file(RUN, 1))
    assert np.array_equal(found, kept["predicted"])
    assert (found == kept["labels"]).mean() > 0.99


@pytest.mark.slow
def test_other_peoples_digits(tmp_path, capsys):
    """Read 300 of scikit-learn's digits, drawn large. The docs state the number recognised."""
    images, labels = load_digits(return_X_y=True)
    for number, image in enumerate(images[:300].reshape(-1, 8, 8)):
        ink = Image.fromarray((image * (255 / 16)).astype(np.uint8)).resize(
            (200, 200), Image.Resampling.BICUBIC
        )
        paper = Image.new("L", (300, 340), 255)
        paper.paste(0, (60, 40), ink)
        paper.save(tmp_path / f"{number:03}.png")
    assert main([str(RUN), str(tmp_path), "--json"]) == 0
    found = np.array([each["digit"] for each in predictions(capsys)])
    right = int((found == labels[:300]).sum())
    stated = re.search(r"classifies (\d+) of scikit", (ROOT / "docs" / "guide.md").read_text())
    assert stated and abs(int(stated[1]) - right) <= 2 and right > 280
