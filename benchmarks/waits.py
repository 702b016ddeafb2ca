"""The same training over a link with a simulated round trip. Prints JSON: program, round trip in ms, ms per step.

The one wait for the end of all steps is taken off; what `loss.item()` waits for is not.
"""

import json
import sys
import time
from contextlib import closing
from typing import Final

import torch

import ptrtensor as pt
from benchmarks.delay import delayed
from benchmarks.systems.ptrtensor import listener
from benchmarks.workload import Place
from benchmarks.workloads import STEPS, mlp

ROUND_TRIPS_MS: Final = (0, 10, 50, 200)
PROGRAMS: Final = {"SGD": ("SGD", False), "SGD and loss.item()": ("SGD", True), "Adam": ("Adam", False)}


def ms_per_step(bob: pt.Worker, program: str, round_trip_ms: float) -> float:
    optimizer, item = PROGRAMS[program]
    run = mlp(optimizer, item)(Place(bob.device, bob.synchronize))
    run()
    bob.synchronize()
    rounds = 1 if item and round_trip_ms else 6
    began = time.perf_counter()
    for _ in range(rounds):
        run()
    bob.synchronize()
    return ((time.perf_counter() - began) * 1e3 - round_trip_ms) / (rounds * STEPS)


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, dict[str, float]] = {program: {} for program in PROGRAMS}
    for round_trip in ROUND_TRIPS_MS:
        with (
            listener() as address,
            delayed(address, round_trip / 2000) as slow_address,
            closing(pt.RemoteWorker(slow_address)) as bob,
        ):
            for program in PROGRAMS:
                figures[program][str(round_trip)] = ms_per_step(bob, program, round_trip)
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
