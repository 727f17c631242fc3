"""Write `parity.npz`: PyTorch's results in double precision for `parity_inputs.py`.

Run with PyTorch installed: python tests/golden/make_parity.py
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from parity_inputs import OPTIMIZERS, STEPS, batches, weights
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, StepLR


def conv(inputs: int, outputs: int, kernel: int, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)


def block(inputs: int, outputs: int, kernel: int, padding: int = 0) -> list[nn.Module]:
    return [conv(inputs, outputs, kernel, padding), nn.ReLU(), nn.BatchNorm2d(outputs)]


def step_1() -> nn.Sequential:
    return nn.Sequential(
        conv(1, 32, 3),
        nn.ReLU(),
        conv(32, 64, 3),
        nn.ReLU(),
        conv(64, 128, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(128, 32, 1),
        nn.ReLU(),
        conv(32, 64, 3),
        nn.ReLU(),
        conv(64, 128, 3),
        nn.ReLU(),
        conv(128, 10, 1),
        nn.ReLU(),
        conv(10, 10, 7),
        nn.Flatten(),
    )


def step_2() -> nn.Sequential:
    return nn.Sequential(
        *block(1, 10, 3),
        *block(10, 16, 3),
        *block(16, 10, 1),
        nn.MaxPool2d(2),
        *block(10, 20, 3),
        *block(20, 16, 3),
        *block(16, 10, 3),
        *block(10, 16, 3, 1),
        nn.AvgPool2d(6),
        conv(16, 10, 1),
        nn.Flatten(),
    )


def load(network: str) -> nn.Sequential:
    net = {"step_1": step_1, "step_2": step_2}[network]()
    convolutions = [m for m in net if isinstance(m, nn.Conv2d)]
    norms = iter([m for m in net if isinstance(m, nn.BatchNorm2d)])
    with torch.no_grad():
        for module, layer in zip(convolutions, weights(network), strict=True):
            module.weight.copy_(torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy()))
            if "scale" in layer:
                norm = next(norms)
                norm.weight.copy_(torch.from_numpy(layer["scale"]))
                norm.bias.copy_(torch.from_numpy(layer["bias"]))
    return net


def main() -> None:
    # In single precision, oneDNN's convolutions change these logits by up to 2e-4, and Adam
    # amplifies that.
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    images, labels = batches()
    x = (torch.from_numpy(images.astype(np.float64)).permute(0, 1, 4, 2, 3) / 255 - 0.1307) / 0.3081
    y = torch.from_numpy(labels.astype(np.int64))
    golden: dict[str, np.ndarray] = {}
    for network in ("step_1", "step_2"):
        for train in (True, False):
            with torch.no_grad():
                golden[f"{network}/logits_{'train' if train else 'test'}"] = (
                    load(network).train(train)(x[0]).numpy()
                )
    for case, (network, name, momentum, learning_rate) in OPTIMIZERS.items():
        net = load(network)
        optimizer = (
            torch.optim.SGD(net.parameters(), learning_rate, momentum=momentum)
            if name == "sgd"
            else torch.optim.Adam(net.parameters(), learning_rate)
        )
        losses = []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = F.nll_loss(F.log_softmax(net(x[step]), dim=1), y[step])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        golden[f"{case}/losses"] = np.array(losses)
        if network == "step_1":
            continue  # its losses tell enough, and its parameters would take a megabyte
        for number, module in enumerate(m for m in net if isinstance(m, nn.Conv2d)):
            golden[f"{case}/kernel/{number}"] = module.weight.detach().numpy().transpose(2, 3, 1, 0)
        for number, module in enumerate(m for m in net if isinstance(m, nn.BatchNorm2d)):
            golden[f"{case}/scale/{number}"] = module.weight.detach().numpy()
            golden[f"{case}/bias/{number}"] = module.bias.detach().numpy()
            golden[f"{case}/mean/{number}"] = module.running_mean.numpy()
            golden[f"{case}/var/{number}"] = module.running_var.numpy()
    for schedule, make in (
        ("step", lambda o: StepLR(o, 5, 0.1)),
        ("exponential", lambda o: ExponentialLR(o, 0.8)),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1)], 0.01)
        scheduler, rates = make(optimizer), []
        for _ in range(20):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        golden[f"learning_rate/{schedule}"] = np.array(rates)
    golden = {name: array.astype(np.float32) for name, array in golden.items()}
    np.savez_compressed(Path(__file__).parent / "parity.npz", **golden)


if __name__ == "__main__":
    main()
