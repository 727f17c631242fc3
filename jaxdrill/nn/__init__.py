"""The network: layers as pure functions, their Flax modules, and pixels to logits."""
