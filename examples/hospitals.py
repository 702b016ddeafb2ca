"""Two hospitals train one classifier together, and no patient's row leaves its hospital: `make demo`.

Each hospital is a worker in a process of its own, with half of the Wisconsin breast-cancer data. In this demo the
script stands in for the hospitals as well: it loads the data and hands each its half. From there on it is a
researcher who has pointers only.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from copy import deepcopy
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import ptrtensor as sy

ROUNDS = 500
HELD_OUT = 0.25

console = Console(highlight=False, markup=False, soft_wrap=True)


class Patients(NamedTuple):
    """Tensors that are here, or pointers to a hospital's: the functions below take both."""

    measurements: Tensor  # patients x 30
    benign: Tensor  # patients x 1: 1 is benign, 0 malignant

    def at(self, worker: sy.Worker) -> "Patients":
        return Patients(sy.send(self.measurements, worker), sy.send(self.benign, worker))

    def split(self) -> tuple["Patients", "Patients"]:
        """Those to learn from, and those held out."""
        first = int(len(self.benign) * HELD_OUT)
        return Patients(self.measurements[first:], self.benign[first:]), Patients(
            self.measurements[:first], self.benign[:first]
        )


# --- ordinary torch: nothing here knows where the patients are


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))


def sums(patients: Patients) -> Tensor:
    """Of each measurement, over the patients: the sum, and the sum of its squares."""
    return torch.stack([patients.measurements.sum(0), patients.measurements.square().sum(0)])


def standardised(patients: Patients, mean: Tensor, deviation: Tensor) -> Patients:
    return Patients((patients.measurements - mean) / deviation, patients.benign)


def gradients(model: nn.Module, patients: Patients, everybody: int) -> tuple[Tensor, ...]:
    """Of these patients' share in the mean loss over everybody."""
    logits = model(patients.measurements)
    loss = binary_cross_entropy_with_logits(logits, patients.benign, reduction="sum") / everybody
    return torch.autograd.grad(loss, list(model.parameters()))


def count_right(model: nn.Module, patients: Patients) -> Tensor:
    return ((model(patients.measurements) > 0) == (patients.benign > 0)).sum()


def train(model: nn.Module, next_gradients: Callable[[], Iterable[Tensor]], rounds: Iterable[int]) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in rounds:
        for parameter, gradient in zip(model.parameters(), next_gradients(), strict=True):
            parameter.grad = gradient
        optimizer.step()
