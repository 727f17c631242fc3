"""Build the networks of recipes in PyTorch and in Flax, for the benchmarks."""

from typing import Any

from jaxdrill.config.config import Config
from jaxdrill.config.layers import Pool


def torch_network(config: Config) -> Any:
    """Build the network of a recipe in PyTorch."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    channels, modules = 1, []
    for layer in config.network:
        if isinstance(layer, Pool):
            modules.append((nn.MaxPool2d if layer.pool == "max" else nn.AvgPool2d)(layer.size))
            continue
        if layer.separable:
            modules.append(nn.Conv2d(channels, layer.conv, 1, bias=False))
        groups = layer.conv if layer.separable else 1
        channels = layer.conv if layer.separable else channels
        modules.append(
            nn.Conv2d(
                channels, layer.conv, layer.kernel, padding=layer.padding, groups=groups, bias=False
            )
        )
        modules += [nn.ReLU()] if layer.relu else []
        modules += [nn.BatchNorm2d(layer.conv)] if layer.batch_norm else []
        modules += [nn.Dropout(layer.dropout)] if layer.dropout else []
        channels = layer.conv
    return nn.Sequential(*modules, nn.Flatten())


def nnx_network(config: Config) -> Any:
    """Build the network of a recipe in Flax NNX, as in the documentation of Flax."""
    from functools import partial

    from flax import nnx

    rngs, channels, modules = nnx.Rngs(config.seed), 1, []
    for layer in config.network:
        window = dict(window_shape=(size := getattr(layer, "size", 1), size), strides=(size, size))
        if isinstance(layer, Pool):
            modules.append(partial(nnx.max_pool if layer.pool == "max" else nnx.avg_pool, **window))
            continue
        kernel = (layer.kernel, layer.kernel)
        conv = partial(nnx.Conv, out_features=layer.conv, use_bias=False, rngs=rngs)
        if layer.separable:
            modules.append(conv(channels, kernel_size=(1, 1)))
        groups = layer.conv if layer.separable else 1
        channels = layer.conv if layer.separable else channels
        modules.append(
            conv(channels, kernel_size=kernel, padding=layer.padding, feature_group_count=groups)
        )
        modules += [nnx.relu] if layer.relu else []
        modules += [nnx.BatchNorm(layer.conv, momentum=0.9, rngs=rngs)] if layer.batch_norm else []
        modules += [nnx.Dropout(layer.dropout, rngs=rngs)] if layer.dropout else []
        channels = layer.conv
    return nnx.Sequential(*modules, lambda x: x.reshape(len(x), -1))
