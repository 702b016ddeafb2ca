"""`profile`: where the time goes. Waits by the caller's line, operations at the worker, cache misses."""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ptrtensor.client.callsite import CallSite
from ptrtensor.client.waits import Wait
from ptrtensor.errors import PtrTensorError, WorkerLostError
from ptrtensor.tensor.worker import Worker, check_worker, devices
from ptrtensor.wire import messages

HOT: Final = 100
"""Waits of one line that are worth a warning."""

SHOWN: Final = 10
"""Rows of each table in the text."""


@dataclass(frozen=True)
class LineWaits:
    """What one line of the program waited for one worker."""

    worker: str
    file: str
    line: int
    source: str
    count: int
    seconds: float


@dataclass(frozen=True)
class OperationTime:
    """What one operation took at one worker. On an accelerator, which goes on by itself, to begin it."""

    worker: str
    operation: str
    count: int
    seconds: float


@dataclass(frozen=True)
class OperationMisses:
    """How often the result of an operation had to be inferred anew, for one worker."""

    worker: str
    operation: str
    count: int


@dataclass(frozen=True)
class Before:
    """A worker's counters when the profile began."""

    waits: dict[CallSite, Wait]
    misses: Counter[str]


class profile:  # a context manager, named like torch's own
    """``with ptrtensor.profile() as found: ...; print(found)``: where the time goes between the caller and its workers.

    Given no worker it looks at all that exist when it begins. To begin and to end it waits once for each. While it
    runs, a worker measures each operation, about half a microsecond more for each.

    :raises PtrTensorError: one of the arguments is no worker, or is being profiled already.
    """

    def __init__(self, *workers: Worker) -> None:
        for worker in workers:
            check_worker(worker, "profile()")
        self._given = workers
        self._before: dict[Worker, Before] = {}
        self.waits: list[LineWaits] = []
        """The longest first."""
        self.operations: list[OperationTime] = []
        """The slowest first, by the sum of their times."""
        self.misses: list[OperationMisses] = []
        """The most first."""

    def __enter__(self) -> Self:
        if self._before:
            raise PtrTensorError("this profile has begun already: make one for each `with`")
        try:
            for worker in dict.fromkeys(self._given) or devices.all():
                self._begin(worker)
        except BaseException:
            for worker in self._before:
                self._end(worker)
            raise
        return self

    def _begin(self, worker: Worker) -> None:
        if worker.is_profiled:
            raise PtrTensorError(f"another profile of worker {worker.id} is under way: one at a time")
        worker.client.request(lambda number: messages.Measure(number, True), messages.Measured)
        worker.is_profiled = True
        self._before[worker] = Before(worker.client.waits.by_line(), Counter(worker.cache.missed))

    def _end(self, worker: Worker) -> list[messages.Timing]:
        """What a worker measured; nothing if it is gone."""
        worker.is_profiled = False
        try:
            found, _ = worker.client.request(lambda number: messages.Measure(number, False), messages.Measured)
        except WorkerLostError:
            return []
        return found.timings

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker, before in self._before.items():
            self._take_in(worker, before)
        self.waits.sort(key=lambda line: -line.seconds)
        self.operations.sort(key=lambda operation: -operation.seconds)
        self.misses.sort(key=lambda operation: -operation.count)
        hot = next((line for line in self.waits if line.count >= HOT), None)
        if hot is not None and error is None:
            warnings.warn(warning(hot), stacklevel=2)

    def _take_in(self, worker: Worker, before: Before) -> None:
        for site, wait in worker.client.waits.by_line().items():
            earlier = before.waits.get(site, Wait())
            if earlier.count > wait.count:
                earlier = Wait()  # the line was forgotten meanwhile, and came again
            count, seconds = wait.count - earlier.count, wait.seconds - earlier.seconds
            if count:
                self.waits.append(LineWaits(worker.id, site.code.co_filename, site.line, site.source, count, seconds))
        missed = Counter(worker.cache.missed) - before.misses
        self.misses += [OperationMisses(worker.id, name, count) for name, count in missed.items()]
        self.operations += [
            OperationTime(worker.id, timing.operation, timing.count, timing.seconds) for timing in self._end(worker)
        ]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield "Waits, by line"
        for wait in self.waits[:SHOWN]:
            where = f"{Path(wait.file).name}:{wait.line}"
            yield f"  {wait.seconds:9.3f} s {wait.count:7d} x  {where}  {wait.source}  ({wait.worker})"
        yield "Operations at the worker, by time"
        for timing in self.operations[:SHOWN]:
            yield f"  {timing.seconds:9.3f} s {timing.count:7d} x  {timing.operation}  ({timing.worker})"
        yield "Results inferred anew, by operation"
        for miss in self.misses[:SHOWN]:
            yield f"  {miss.count:19d} x  {miss.operation}  ({miss.worker})"


def warning(line: LineWaits) -> str:
    where = f"{Path(line.file).name}:{line.line}"
    return (
        f"`{line.source}` at {where} waited {line.count} times for {line.worker}, {line.seconds:.1f} s: ask for values "
        "less often, or for many at once (docs/howto/count-waits.md)"
    )
