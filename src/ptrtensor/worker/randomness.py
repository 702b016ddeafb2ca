"""Random numbers at the worker [P5.3].

Each command that draws brings its own seed, from the caller's generator; so seeding, forking and recomputation at
the caller hold here too. After `manual_seed(n)` one generator is used in order instead, as a local program would.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ptrtensor._torch.randomness import GENERATOR_LOCK, default_generator


class Randomness:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seeded = torch.Generator(device)
        self._sequence = torch.Generator(device)
        self._sequential = False
        self._private = torch.Generator(device)
        self._is_private = False

    @contextmanager
    def privately(self) -> Iterator[None]:
        """How much is drawn may depend on private values, and the state of the sequence would show it."""
        self._is_private = True
        try:
            yield
        finally:
            self._is_private = False

    def manual_seed(self, seed: int | None) -> None:
        """Use one generator in order from `seed` on; None goes back to a seed for each command."""
        if seed is not None:
            self._sequence.manual_seed(seed)  # before the mode changes: torch may refuse the seed
            self._private.manual_seed(seed)
        self._sequential = seed is not None

    def generator(self, seed: int) -> torch.Generator:
        """The generator for an operation that takes one. In sequential mode a seed of 0 means the next in order."""
        if self._sequential and seed == 0:
            return self._private if self._is_private else self._sequence
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
        self._sequence.set_state(state)
