"""What a run measured: for each workload and system one figure a round."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Self

from benchmarks.system import OTHERS
from benchmarks.workload import Workload


@dataclass(frozen=True)
class Results:
    """`rounds`: workload, system, figures in the workload's unit."""

    machine: str
    versions: dict[str, str]
    rounds: dict[str, dict[str, list[float]]]
    studies: dict[str, dict[str, dict[str, float]]]

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    def add(self, workload: str, system: str, figure: float) -> None:
        self.rounds.setdefault(workload, {}).setdefault(system, []).append(figure)

    def speed(self, workload: Workload, system: str, other: str) -> float | None:
        """How many times as fast a system is as another: the median of the rounds' ratios."""
        figures = self.rounds.get(workload.name, {})
        if system not in figures or other not in figures:
            return None
        ratios = [mine / theirs for mine, theirs in zip(figures[system], figures[other], strict=True)]
        return median(ratios) if workload.unit == "GB/s" else 1 / median(ratios)

    def best_peer(self, workload: Workload) -> str | None:
        figures = self.rounds.get(workload.name, {})
        others = [name for name in OTHERS if name in figures]
        best = max if workload.unit == "GB/s" else min
        return best(others, key=lambda name: median(figures[name])) if others else None
