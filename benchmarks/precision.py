"""Measure how much accuracy convolutions in bfloat16 cost, by simulating them on a CPU.

    python -m benchmarks.precision --data-dir FOLDER

The same seeds are trained twice: in float32, and with the inputs of every convolution rounded to
bfloat16, forward and backward. Accumulation stays in float32, as on a TPU. Run folders are kept,
and rerunning the command resumes unfinished runs.
"""

import argparse
import json
from pathlib import Path

import jax
from jax import lax

from jaxdrill import config as recipes
from jaxdrill.nn import convolution, modules
from jaxdrill.report import statistics
from jaxdrill.runs import progress, reader, session
from jaxdrill.training import devices


@jax.custom_vjp
def rounded(x: jax.Array) -> jax.Array:
    """Round float32 values to bfloat16. The gradient is not rounded."""
    return lax.reduce_precision(x, 8, 7)


@jax.custom_vjp
def with_rounded_gradient(x: jax.Array) -> jax.Array:
    """Return x. The gradient is rounded to bfloat16."""
    return x


rounded.defvjp(lambda x: (rounded(x), None), lambda _, dy: (dy,))
with_rounded_gradient.defvjp(lambda x: (x, None), lambda _, dy: (rounded(dy),))


def convolve(x: jax.Array, kernel: jax.Array, padding: int, form: str) -> jax.Array:
    """Convolve like `convolution.convolve`, with inputs rounded to bfloat16."""
    return with_rounded_gradient(convolution.convolve(rounded(x), rounded(kernel), padding, form))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of the four official idx files")
    parser.add_argument("--data", default="auto", help="(default: auto)")
    parser.add_argument("--step", default="5", help="(default: 5)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    out, about = Path("runs/precision"), "folder for the run folders (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=out, help=about)
    options = parser.parse_args()
    flags = {"seeds": f"{options.seeds}", "epochs": f"{options.epochs}", "data": options.data}
    config, accuracies = recipes.load(options.step, flags), {}
    devices.set_up_for([config])
    for name, form in (("float32", convolution.convolve), ("bfloat16", convolve)):
        modules.convolve = form
        with progress.stop_on_signal() as stop:
            command = ["python", "-m", "benchmarks.precision"]
            out = options.out / name
            folder = session.train(config, out, stop, options.data_dir, command=command)
        accuracies[name] = reader.read(folder).metrics["accuracy"][:, -1]
    change = statistics.difference("float32", accuracies["float32"], accuracies["bfloat16"])
    report = {
        "step": config.name,
        "epochs": config.epochs,
        "seeds": change.seeds,
        "accuracy": {name: values.tolist() for name, values in accuracies.items()},
        "difference": change.mean,
        "interval": change.interval,
        "p_value": change.p_value,
        "verdict": change.verdict,
    }
    (options.out / "precision.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
