"""How long each operation takes, while a client wants to know."""

import time
from collections import defaultdict

from ptrtensor.wire.messages import Timing
from ptrtensor.worker.arguments import Fields
from ptrtensor.worker.executor import Executor
from ptrtensor.worker.program import Program


class Stopwatch:
    """Runs commands as the executor does, and keeps their times by operation."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def run(self, program: Program, fields: Fields, sequence: int) -> None:
        began = time.perf_counter()
        try:
            self._executor.run(program, fields, sequence)
        finally:
            name = program.instruction.op
            self._counts[name] += 1
            self._seconds[name] += time.perf_counter() - began

    def timings(self) -> list[Timing]:
        return [Timing(name, count, self._seconds[name]) for name, count in self._counts.items()]
