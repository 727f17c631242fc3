"""How the time of an epoch grows with devices, processes and seeds on this machine's cores:

    python -m benchmarks.scaling

Each line is one command on digits: step 5, the seconds that a seed's share of the fastest epoch takes. More devices
than cores share them, so what is seen is the cost of dividing the work; into results/benchmarks/scaling.json.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from jaxdrill.files import write_text
from jaxdrill.runs.folder import read_rows
from jaxdrill.training.backend import cores

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks" / "scaling.json"
SHAPES = [*((devices, 1) for devices in (1, 2, 4, 8)), *((1, processes) for processes in (2, 4))]


def epoch_seconds(devices: int, processes: int, seeds: int, folder: Path) -> float:
    """Of one seed, the fastest epoch, with so many devices in each of so many processes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, "-m", "jaxdrill.main", "--step", "5", "--data", "digits", "--epochs", "3"]
    command += ["--seeds", f"{seeds}", "--batch-size", "256", "--workdir", f"{folder}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": f"{devices}", "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(command + (["--distributed", f"{address},{n},{processes}"] if processes > 1 else []),
                         env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for n in range(processes)
    ]  # fmt: skip
    if any(process.wait() for process in started):
        raise RuntimeError(f"{processes} process(es) of {devices} device(s) did not train")
    return min(row["seconds"] for row in read_rows(folder)[0])


def main() -> None:
    """The command."""
    rows = []
    for seeds in (1, 4):
        for devices, processes in SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                seconds = epoch_seconds(devices, processes, seeds, Path(folder) / "run")
            rows.append({"seeds": seeds, "devices": devices, "processes": processes, "epoch_seconds": seconds})
            print(rows[-1], flush=True)
    write_text(RESULTS, json.dumps({"cores": cores(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
