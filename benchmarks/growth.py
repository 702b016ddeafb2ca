"""Cost as the work grows: live pointers, threads, arguments, steps. Prints JSON: what grows, how far, the figure."""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Final

import torch
from torch import Tensor

import ptrtensor as pt
from benchmarks.systems.ptrtensor import worker
from benchmarks.workload import Place
from benchmarks.workloads import CHAIN, chain, mlp

PAGE: Final = 4096
ROUNDS: Final = 5

LIVE: Final = (10, 1_000, 100_000, 1_000_000)
THREADS: Final = (1, 2, 4, 8)
ARGUMENTS: Final = (1, 10, 100, 1000)
STEPS: Final = (1_000, 4_000, 7_000, 10_000)


def median_seconds(run: Callable[[], None]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def by_live_pointers(bob: pt.Worker) -> dict[str, float]:
    """Microseconds per add while so many others live."""
    run = chain(lambda value, _: value + 1)(Place(bob.device, bob.synchronize))
    start = torch.ones(8, device=bob.device)
    living: list[Tensor] = []
    figures = {}
    for number in LIVE:
        while len(living) < number:
            living.append(start + 1)
        figures[str(number)] = median_seconds(run) / CHAIN * 1e6
    return figures


def by_threads(bob: pt.Worker) -> dict[str, float]:
    """Microseconds per add, all threads together."""
    run = chain(lambda value, _: value + 1)(Place(bob.device, bob.synchronize))
    figures = {}
    for number in THREADS:

        def together(number: int = number) -> None:
            threads = [Thread(target=run) for _ in range(number)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        figures[str(number)] = median_seconds(together) / (number * CHAIN) * 1e6
    return figures


def by_arguments(bob: pt.Worker) -> dict[str, float]:
    """Microseconds per `cat` of a list of so many."""
    figures = {}
    for number in ARGUMENTS:
        parts = [torch.ones(1, device=bob.device) for _ in range(number)]

        def run(parts: list[Tensor] = parts) -> None:
            for _ in range(100):
                torch.cat(parts)
            bob.synchronize()

        run()
        figures[str(number)] = median_seconds(run) / 100 * 1e6
    return figures


def by_steps(bob: pt.Worker) -> tuple[dict[str, float], dict[str, float]]:
    """MiB resident in this process and in the worker's after so many training steps."""
    run = mlp("SGD", True)(Place(bob.device, bob.synchronize))
    here, there = {}, {}
    done = 0
    for number in STEPS:
        while done < number:
            run()
            done += 50
        gc.collect()
        here[str(number)] = resident("self")
        there[str(number)] = sum(resident(child) for child in children())
    return here, there


def resident(process: str) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE / 2**20


def children() -> list[str]:
    return Path(f"/proc/self/task/{next(Path('/proc/self/task').iterdir()).name}/children").read_text().split()


def main() -> None:
    torch.set_num_threads(1)
    studies = {}
    with worker("process") as bob:
        studies["memory of the caller, MiB, by steps"], studies["memory of the worker, MiB, by steps"] = by_steps(bob)
    with worker("process") as bob:
        studies["us per operation, by threads"] = by_threads(bob)
        studies["us per cat, by length of the list"] = by_arguments(bob)
        studies["us per operation, by live pointers"] = by_live_pointers(bob)
    json.dump(studies, sys.stdout)


if __name__ == "__main__":
    main()
