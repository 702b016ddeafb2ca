"""A workload: what is measured, in which unit, and the code that does it once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch

Unit = Literal["us", "ms", "GB/s"]

Run = Callable[[], None]
"""One round. What it began may still be under way when it returns; the driver synchronizes."""


@dataclass(frozen=True)
class Place:
    """Where ordinary torch code runs."""

    device: torch.device
    synchronize: Run


@dataclass(frozen=True)
class Workload:
    """`amount` is how much one round does: operations or steps, or bytes where the unit is a rate."""

    name: str
    title: str
    unit: Unit
    amount: float
    prepare: Callable[[Place], Run]

    def measured(self, seconds: float) -> float:
        """One round's time in the unit."""
        match self.unit:
            case "us":
                return seconds / self.amount * 1e6
            case "ms":
                return seconds / self.amount * 1e3
            case "GB/s":
                return self.amount / seconds / 1e9


MEBI: Final = 1024 * 1024
