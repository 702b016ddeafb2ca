"""Generators and seeds."""

from struct import Struct
from typing import Final

import torch
from torch import Tensor

from ptrtensor._torch.state import isolated
from ptrtensor.locks import process_lock

GENERATOR_LOCK: Final = process_lock()
"""Held by whoever draws from torch's default generators, or lends one of them to an operation."""

MERSENNE_NUMBERS: Final = 624
"""In the state of a CPU's generator (at::mt19937)."""

STATE_HEAD: Final = Struct("=QiiQ")
"""Its seed; how many numbers are left until all are made anew, one more than are drawn; whether it was seeded; and
which number is drawn next.
"""


def draw_seed(generator: torch.Generator | None) -> int:
    """63 bits from the generator, or from torch's default one, advancing it."""
    with GENERATOR_LOCK:
        return isolated(_draw_seed, generator)


def _draw_seed(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator).item())


def set_state(generator: torch.Generator, state: Tensor) -> None:
    """Give a generator this state. Torch looks at each of its numbers, and not at whether they go together: from some
    states it would draw what lies behind them in memory.

    :raises ValueError: it is one of those.
    :raises RuntimeError: torch refuses it.
    """
    if generator.device.type == "cpu" and state.numel() >= STATE_HEAD.size:
        _, left, _, following = STATE_HEAD.unpack(bytes(state[: STATE_HEAD.size].tolist()))
        if left + following > MERSENNE_NUMBERS + 1:
            raise ValueError(f"{left} of {MERSENNE_NUMBERS} numbers are left from number {following} on")
    generator.set_state(state)


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that operations of this device use when none is given."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator
