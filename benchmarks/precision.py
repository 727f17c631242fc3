"""What products in bfloat16 would cost in accuracy, found on a CPU:

    python -m benchmarks.precision --data-dir FOLDER

trains the same seeds twice, as they are and with every factor of a convolution rounded to bfloat16, forward and
backward. Sums stay in float32, as a TPU's do. The run folders are kept, and continued if this is run again.
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
    """The nearest values that bfloat16 has, float32; the gradient passes as it is."""
    return lax.reduce_precision(x, 8, 7)


@jax.custom_vjp
def with_rounded_gradient(x: jax.Array) -> jax.Array:
    """The same values; the gradient is rounded."""
    return x


rounded.defvjp(lambda x: (rounded(x), None), lambda _, dy: (dy,))
with_rounded_gradient.defvjp(lambda x: (x, None), lambda _, dy: (rounded(dy),))


def convolve(x: jax.Array, kernel: jax.Array, padding: int, form: str) -> jax.Array:
    """As `convolution.convolve`, of rounded factors."""
    return with_rounded_gradient(convolution.convolve(rounded(x), rounded(kernel), padding, form))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder of the four official idx files")
    parser.add_argument("--data", default="auto", help="(default: auto)")
    parser.add_argument("--step", default="5", help="(default: 5)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/precision"), help="(default: %(default)s)"
    )
    options = parser.parse_args()
    flags = {"seeds": f"{options.seeds}", "epochs": f"{options.epochs}", "data": options.data}
    config, accuracies = recipes.load(options.step, flags), {}
    devices.set_up_for([config])
    for name, form in (("float32", convolution.convolve), ("bfloat16", convolve)):
        modules.convolve = form
        with progress.stop_on_signal() as stop:
            command = ["python", "-m", "benchmarks.precision"]
            folder = session.train(
                config, options.out / name, stop, options.data_dir, command=command
            )
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
