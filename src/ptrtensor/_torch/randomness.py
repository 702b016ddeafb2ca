"""Generators and seeds."""

from typing import Final

import torch

from ptrtensor._torch.state import isolated
from ptrtensor.locks import process_lock

GENERATOR_LOCK: Final = process_lock()
"""Held by whoever draws from torch's default generators, or lends one of them to an operation."""


def draw_seed(generator: torch.Generator | None) -> int:
    """63 bits from the generator, or from torch's default one, advancing it."""
    with GENERATOR_LOCK:
        return isolated(_draw_seed, generator)


def _draw_seed(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator).item())


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that operations of this device use when none is given."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator
