"""Random streams: every draw is a function of a run's seed and of what it is drawn for.

Nothing in this project draws from a global generator. `generator(seed, "init", layer, "A")` always gives the
same stream, whatever was drawn before, in whatever order, by however many runs at once. So a run packed with
others starts and drops exactly as it does alone, and a second pass through a checkpointed layer sees the mask
that the first one saw.
"""

import hashlib

import torch
from torch import Tensor


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose. Streams in use: "init", "head", "order", "dropout"."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big"))


def uniform(shape: tuple[int, ...], bound: float, source: torch.Generator) -> Tensor:
    """U(-bound, bound), drawn in float32 on the CPU, so that every device starts from the same numbers."""
    return torch.empty(shape).uniform_(-bound, bound, generator=source)


def normal(shape: tuple[int, ...], std: float, source: torch.Generator) -> Tensor:
    """N(0, std^2), drawn as `uniform` is."""
    return torch.empty(shape).normal_(0.0, std, generator=source)
