"""Valid files, how to damage each of them, and the functions that read them."""

import gzip
import io
import random
import struct
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from conftest import TINY, idx_bytes
from PIL import Image
from runs_on_disk import write_run, write_trained
from soak import damage
from soak.mutations import (
    inside_gzip,
    inside_safetensors,
    inside_zip,
    mutated,
    with_valid_checksum,
)

from jaxdrill import array_files, config, data, report, weights
from jaxdrill.data import idx
from jaxdrill.predict import read_picture
from jaxdrill.runs import checkpoints, provenance, reader, resume


def recipe_with_other_values(content: bytes, r: random.Random) -> bytes:
    """Change keys and values of a recipe. It is valid TOML."""
    table = damage.of_value(tomllib.loads(content.decode()), r)
    return damage.as_toml(table if isinstance(table, dict) else {"network": table}).encode()


Case = tuple[str, Callable[[bytes, random.Random], bytes], Callable[[], object]]


def corpus(base: Path) -> list[Case]:
    """Write valid files. Return how to damage each, and what reads it."""
    run = write_run(base / "run", "5", {1: [0.9, 0.98], 2: [0.91, 0.97]})
    write_trained(run, "5", (1,))
    recipe = config.load("5")
    (run / "checkpoints" / "seed_1").mkdir(parents=True)
    arrays = {
        name: a[None]
        for name, a in weights.read_weights(run / "weights" / "seed_1.safetensors")[0].items()
    }
    rows = [row for row in resume.folder.read_rows(run)[0] if row["seed"] == 1]
    identity = provenance.identity(recipe.model_copy(update={"data": "mnist"}), "sum of mnist")
    about = {"seeds": [1], "rows": rows, "identity": identity, "epoch_seconds": 1.5}
    checkpoints.Checkpoints(run / "checkpoints" / "seed_1").save(938, arrays, about)
    own = base / "own"
    own.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    for name, values in (
        ("train-images", images),
        ("train-labels", np.arange(30, dtype=np.uint8) % 10),
        ("test-images", images[:10]),
        ("test-labels", np.arange(10, dtype=np.uint8)),
    ):
        (own / name).write_bytes(
            gzip.compress(idx_bytes(values)) if "train" in name else idx_bytes(values)
        )
    pack = data.pack_file("mnist")
    names = dict(zip(data.FILES, (images[..., None], np.zeros(30, np.uint8)) * 2, strict=True))
    array_files.write_npz(pack, names, compress=False)
    (base / "mine.toml").write_text(
        'extends = "step_5"\ngoal = "mine"\n' + TINY.replace('data = "digits"', "")
    )

    def read_report() -> object:
        # No pictures: they run JAX, which does not work in a fork.
        return reader.read(run), report.summary([run])

    def continued() -> object:
        mine = recipe.model_copy(update={"data": "mnist", "seeds": 2})
        _, previous, _ = resume.open_run(mine, run, identity, 469)
        dataset = data.Dataset("mnist", **names)
        return (
            provenance.describe_run(mine, dataset, identity, 9606, [], previous)["seconds"]["data"]
            + 1.0
        )

    def load() -> object:
        return data.load("mnist", offline=True)

    cases: list[Case] = [
        ("own/train-images", mutated, lambda: idx.read_folder(own)),
        ("own/train-images", inside_gzip, lambda: idx.read(own / "train-images", 3)),
        ("own/train-labels", inside_gzip, lambda: idx.read_folder(own)),
        (
            "own/test-images",
            mutated,
            lambda: (idx.is_idx(own / "test-images"), idx.read_folder(own)),
        ),
        (f"{pack.relative_to(base)}", mutated, load),
        (f"{pack.relative_to(base)}", inside_zip, load),
        ("mine.toml", mutated, lambda: config.load(str(base / "mine.toml"))),
        ("run/metrics.jsonl", mutated, continued),
        ("run/config.json", mutated, continued),
        ("run/run.json", mutated, continued),
        ("run/checkpoints/seed_1/step_938.safetensors", mutated, continued),
        ("run/checkpoints/seed_1/step_938.safetensors", with_valid_checksum, continued),
    ]
    for name in ("run.json", "config.json", "metrics.jsonl"):
        change = damage.of_lines if name == "metrics.jsonl" else damage.of_json
        cases += [
            (f"run/{name}", each, read)
            for each, read in ((mutated, read_report), (change, read_report), (change, continued))
        ]
    for name in ("predictions/seed_1.npz", "images.npz"):
        cases += [
            (f"run/{name}", change, read_report) for change in (mutated, inside_zip, damage.of_npz)
        ]
    cases += [
        ("own/test-images", damage.of_idx, lambda: idx.read_folder(own)),
        (f"{pack.relative_to(base)}", damage.of_npz, load),
        ("run/checkpoints/seed_1/step_938.safetensors", damage.of_safetensors, continued),
        ("mine.toml", recipe_with_other_values, lambda: config.load(str(base / "mine.toml"))),
    ]
    file = run / "weights" / "seed_1.safetensors"
    for change in (mutated, inside_safetensors, damage.of_safetensors):
        cases.append(("run/weights/seed_1.safetensors", change, lambda: weights.read_weights(file)))
        cases.append(
            (
                "run/weights/seed_1.safetensors",
                change,
                lambda: weights.initial_weights(file, recipe.network),
            )
        )
    picture = Image.fromarray(np.kron(images[0], np.ones((9, 9), np.uint8)))
    for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
        drawn = base / f"picture.{kind}"
        picture.convert("RGB" if kind in ("jpeg", "webp") else "L").save(drawn)
        cases.append((drawn.name, mutated, lambda drawn=drawn: read_picture(drawn)))
    return cases


def hostile_files(base: Path) -> Iterator[tuple[str, bytes]]:
    """Yield small files that would need much memory or time, and files that run programs."""
    zeros = gzip.compress(bytes(2**20), 9)
    yield (
        "own/train-images",
        gzip.compress(idx_bytes(np.zeros((1, 28, 28), np.uint8))[:4] + b"\xff" * 12),
    )
    yield (
        "own/train-images",
        gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 3_000_000, 28, 28), 9) + zeros * 2400,
    )
    header = b"\x93NUMPY\x01\0" + struct.pack("<H", 118)
    shape = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
    for claimed, real in ((2**40, 100), (2**30, 2**30)):
        packed = io.BytesIO()
        with (
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file,
            file.open("labels.npy", "w") as member,
        ):
            member.write(header + (shape % claimed).ljust(117) + b"\n")
            for _ in range(real // 2**20):
                member.write(bytes(2**20))
        yield "run/predictions/seed_1.npz", packed.getvalue()
        yield "run/images.npz", packed.getvalue()
    objects = io.BytesIO()
    np.savez(objects, allow_pickle=True, labels=np.array([print], dtype=object))
    yield "run/predictions/seed_1.npz", objects.getvalue()
    for length in (2**20, 2**40, 2**63):
        yield "run/weights/seed_1.safetensors", struct.pack("<Q", length) + b"{}"
    yield "run/weights/seed_1.safetensors", struct.pack("<Q", 10**6) + b'{"a":' * 200_000
    yield "mine.toml", b"a = " + b"[" * 500_000
    for parts in (30_000, 100_000):
        yield "mine.toml", b".".join([b"a"] * parts) + b" = 1"
    yield "mine.toml", b"network = [" + b"{ conv = 1 }, " * 50_000 + b"]"
    yield "mine.toml", b"x" * 2**21
    yield "mine.toml", b'extends = "mine"'
    for name in ("run.json", "config.json", "metrics.jsonl"):
        yield f"run/{name}", b"[" * 2**20
        yield f"run/{name}", b'{"seeds": 1' + b"0" * 4000 + b"}"
    yield (
        "run/config.json",
        (base / "run/config.json").read_bytes().replace(b'"seeds":2', b'"seeds":' + b"9" * 18),
    )
    yield (
        "run/config.json",
        (base / "run/config.json").read_bytes().replace(b'"epochs":2', b'"epochs":' + b"9" * 18),
    )
    for side in (7000, 20_000, 60_000):
        picture = io.BytesIO()
        Image.new("L", (side, side // 10 if side > 20_000 else side)).save(picture, "PNG")
        yield "picture.png", picture.getvalue()
    yield "picture.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n(%pipe%id) (r) file\n"
