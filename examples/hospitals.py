"""Two hospitals train one classifier together, and no patient's row leaves its hospital: `make demo`.

Each hospital is a worker in a process of its own, with half of the Wisconsin breast-cancer data. On this one machine
the script also stands in for the hospitals: it loads the data and hands each its half. From there on it is a
researcher who has pointers only.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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

ROUNDS = 200

console = Console(highlight=False, markup=False, soft_wrap=True)
say = console.print


class Patients(NamedTuple):
    """Tensors that are here, or pointers to a hospital's: the functions on them do not ask which."""

    measurements: Tensor  # patients x 30
    benign: Tensor  # patients x 1; 1 is benign, 0 malignant


class Hospital(NamedTuple):
    worker: sy.Worker
    training: Patients
    held_out: Patients


# --- ordinary torch, wherever the patients are


def sums(patients: Patients) -> Tensor:
    """Over the patients: the sum of each measurement, and the sum of its squares."""
    return torch.stack([patients.measurements.sum(0), patients.measurements.square().sum(0)])


def standardised(patients: Patients, mean: Tensor, deviation: Tensor) -> Patients:
    return Patients((patients.measurements - mean) / deviation, patients.benign)


def gradients(model: nn.Module, patients: Patients, everybody: int) -> tuple[Tensor, ...]:
    """From these patients' share in the mean loss over everybody."""
    logits = model(patients.measurements)
    loss = binary_cross_entropy_with_logits(logits, patients.benign, reduction="sum") / everybody
    return torch.autograd.grad(loss, list(model.parameters()))


def correct(model: nn.Module, patients: Patients) -> Tensor:
    """How many of them the model diagnoses correctly."""
    says_benign: Tensor = model(patients.measurements) > 0
    return (says_benign == patients.benign).sum()


def trained(gradients_of: Callable[[nn.Module], Iterable[Tensor]], rounds: Iterable[int]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in rounds:
        for parameter, gradient in zip(model.parameters(), gradients_of(model), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return model


# --- over the hospitals: copies of the model go there, and only sums over patients come back


class Door:
    """The one way by which values come here from the hospitals. It keeps account of them."""

    def __init__(self) -> None:
        self.numbers = Counter[str]()
        self.bytes = 0

    def sum(self, kind: str, parts: Iterable[Tensor]) -> Tensor:
        """Fetch a tensor from each hospital and add them up."""
        fetched = torch.stack([sy.get(part) for part in parts])
        self.numbers[kind] += fetched.numel()
        self.bytes += fetched.nbytes
        return fetched.sum(0)


def everybody(hospitals: Sequence[Hospital]) -> int:
    """How many patients there are to learn from. Shapes are known here; nothing is asked."""
    return sum(len(hospital.training.benign) for hospital in hospitals)


def standardised_at(hospitals: Sequence[Hospital], door: Door) -> list[Hospital]:
    total, squares = door.sum("sums of measurements and of their squares", [sums(h.training) for h in hospitals])
    mean = total / everybody(hospitals)
    deviation = (squares / everybody(hospitals) - mean.square()).sqrt()

    def at(worker: sy.Worker, patients: Patients) -> Patients:
        return standardised(patients, sy.send(mean, worker), sy.send(deviation, worker))

    return [Hospital(h.worker, at(h.worker, h.training), at(h.worker, h.held_out)) for h in hospitals]


def trained_at(hospitals: Sequence[Hospital], door: Door, rounds: Iterable[int]) -> nn.Module:
    patients = everybody(hospitals)

    def gradients_of(model: nn.Module) -> list[Tensor]:
        # Nothing waits in this line, so the hospitals compute at the same time.
        there = [gradients(sy.send(deepcopy(model), h.worker), h.training, patients) for h in hospitals]
        return [door.sum("gradients", parts) for parts in zip(*there, strict=True)]

    return trained(gradients_of, rounds)


def correct_at(hospitals: Sequence[Hospital], door: Door, model: nn.Module) -> int:
    counts = [correct(sy.send(deepcopy(model), h.worker), h.held_out) for h in hospitals]
    return int(door.sum("counts of correct diagnoses", counts))


# --- the demo


def first_steps(bob: sy.Worker) -> None:
    """The tutorial, in the spelling that a type checker knows."""
    x = sy.send(torch.tensor([1, 2, 3, 4, 5]), bob)
    y = sy.send(torch.tensor([1, 1, 1, 1, 1]), bob)
    z = x + y
    say(f"  {x = }")
    say(f"  {x.location = }")
    say(f"  {z = }")
    say(f"  {len(bob.objects) = }")
    say(f"  {sy.get(x) = }")
    say(f"  {sy.get(y) = }")
    say(f"  {sy.get(z) = }")
    say(f"  {len(bob.objects) = }")
    x = sy.send(torch.tensor([1.0, 2.0, 3.0], requires_grad=True), bob)
    (x * x).sum().backward()
    say(f"  {sy.get(x).grad = }")


def everyone() -> Patients:
    measurements, benign = (torch.from_numpy(array).float() for array in load_breast_cancer(return_X_y=True))
    order = torch.randperm(len(benign), generator=torch.Generator().manual_seed(0))
    return Patients(measurements[order], benign[order, None])


def split(patients: Patients, sizes: list[int]) -> list[Patients]:
    return [Patients(*parts) for parts in zip(*(tensor.split(sizes) for tensor in patients), strict=True)]


def joined(first: Patients, second: Patients) -> Patients:
    return Patients(*map(torch.cat, zip(first, second, strict=True)))


def filled(worker: sy.Worker, training: Patients, held_out: Patients) -> Hospital:
    """What a hospital would do by itself, and this script does in its place."""

    def at_worker(patients: Patients) -> Patients:
        return Patients(*(sy.send(tensor, worker) for tensor in patients))

    return Hospital(worker, at_worker(training), at_worker(held_out))


def correct_centrally(training: Patients, held_out: Patients) -> int:
    """The same training on one heap of data, without ptrtensor."""
    mean, deviation = training.measurements.mean(0), training.measurements.std(0, correction=0)
    training, held_out = standardised(training, mean, deviation), standardised(held_out, mean, deviation)
    model = trained(lambda model: gradients(model, training, len(training.benign)), range(ROUNDS))
    return int(correct(model, held_out))


def counters(hospitals: Sequence[Hospital]) -> Counter[str]:
    return sum((Counter(hospital.worker.stats()) for hospital in hospitals), Counter())


def main() -> None:
    patients = everyone()
    held_out_north, north_training, held_out_south, south_training = split(patients, [71, 213, 71, 214])
    with ExitStack() as stack:
        say("Two hospitals start, each a process of its own ...")
        north, south = (stack.enter_context(closing(sy.ProcessWorker(id=name))) for name in ("north", "south"))

        say("\nThe tutorial's steps; bob is hospital north:")
        first_steps(north)

        say(f"\nEach hospital has half of {len(patients.benign)} patients. In this demo it got them from this script,")
        say("which stands in for the hospitals too. From now on the script is a researcher with pointers only.")
        hospitals = [filled(north, north_training, held_out_north), filled(south, south_training, held_out_south)]

        before, door = counters(hospitals), Door()
        hospitals = standardised_at(hospitals, door)
        say(f"\nTraining: {ROUNDS} rounds over both hospitals ...")
        with Progress(console=console, disable=not console.is_terminal) as progress:
            model = trained_at(hospitals, door, progress.track(range(ROUNDS), description="Training"))
        right = correct_at(hospitals, door, model)
        cost = counters(hospitals) - before

    central = correct_centrally(joined(north_training, south_training), joined(held_out_north, held_out_south))

    # What came and is not in the door's account counts as rows of 30 measurements and a diagnosis.
    row_bytes = sum(tensor[0].nbytes for tensor in patients)
    rows = math.ceil((cost["bytes_received"] - door.bytes) / row_bytes)

    held_out = len(held_out_north.benign) + len(held_out_south.benign)
    table = Table("", "at the hospitals", "in one place")
    table.add_row(
        "correct on held-out patients",
        f"{right / held_out:.1%} of {held_out}",
        f"{central / held_out:.1%} of {held_out}",
    )
    table.add_row("rows that left their hospital", f"{rows}", f"{len(patients.benign)}")
    table.add_row("bytes to the hospitals", f"{cost['bytes_sent']:,}")
    table.add_row("bytes from the hospitals", f"{cost['bytes_received']:,}")
    table.add_row("operations at the hospitals", f"{cost['commands']:,}")
    table.add_row("waits for an answer", f"{cost['waits']:,}")
    say(table)
    say(f"How the {rows} is known: of the {cost['bytes_received']:,} bytes that came from the hospitals,")
    say(f"{door.bytes:,} are sums over a hospital's patients, which did leave:")
    for kind, numbers in door.numbers.items():
        say(f"  {numbers:,} {kind}")
    say("Such sums can still tell something about a patient; this demo does not guard against that.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        say("\nInterrupted; the hospitals are closed.")
        sys.exit(130)
