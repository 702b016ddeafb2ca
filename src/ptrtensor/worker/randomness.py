"""Random numbers at the worker [P5.3].

Each command that draws brings its own seed, from the caller's generator; so seeding, forking and recomputation at
the caller hold here too. After `manual_seed(n)` one generator is used in order instead, as a local program would.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from ptrtensor._torch.randomness import GENERATOR_LOCK, default_generator, set_state

SEED_STEP: Final = 0x9E3779B97F4A7C15
"""Between the seeds of commands: 2 ** 64 by the golden ratio, as in SplitMix64 (Steele, Lea and Flood, 2014)."""


class Randomness:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seeded = torch.Generator(device)
        self._sequence = torch.Generator(device)
        self._sequential = False
        self._seed = 0
        self._private_command: int | None = None

    @contextmanager
    def privately(self, sequence: int) -> Iterator[None]:
        """How much is drawn may depend on private values, and the state of the sequence would show it: what the
        command of this number draws has no effect on any other.
        """
        self._private_command = sequence
        try:
            yield
        finally:
            self._private_command = None

    def manual_seed(self, seed: int | None) -> None:
        """Use one generator in order from `seed` on; None goes back to a seed for each command."""
        if seed is not None:
            self._sequence.manual_seed(seed)  # before the mode changes: torch may refuse the seed
            self._seed = seed
        self._sequential = seed is not None

    def generator(self, seed: int) -> torch.Generator:
        """The generator for an operation that takes one. In sequential mode a seed of 0 means the next in order."""
        if self._sequential and seed == 0:
            if self._private_command is None:
                return self._sequence
            seed = (self._seed + SEED_STEP * (self._private_command + 1)) % 2**64
        return self._seeded.manual_seed(seed)

    @contextmanager
    def as_default(self, seed: int) -> Iterator[None]:
        """The same for an operation that only knows torch's default generator, which is given back untouched."""
        mine, shared = self.generator(seed), default_generator(self._device)
        with GENERATOR_LOCK:
            before = shared.get_state()
            try:
                shared.set_state(mine.get_state())
                yield
            finally:
                mine.set_state(shared.get_state())
                shared.set_state(before)

    @property
    def state(self) -> Tensor:
        return self._sequence.get_state()

    @state.setter
    def state(self, state: Tensor) -> None:
        set_state(self._sequence, state)
