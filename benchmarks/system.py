"""A system under measurement: its process, and the pipe to its driver."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parent.parent

ENVIRONMENT: Final = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "GLOO_SOCKET_IFNAME": "lo",
    "TP_SOCKET_IFNAME": "lo",
}


@dataclass(frozen=True)
class Program:
    """What to start. `python` is that of the environment where it is installed."""

    name: str
    arguments: tuple[str, ...]
    python: Path = Path(sys.executable)
    is_device: bool = field(default=False)
    """Whether ordinary torch code runs on it."""

    @property
    def is_installed(self) -> bool:
        return self.python.exists()


PEERS: Final = ROOT / "build" / "peers"

PROGRAMS: Final = (
    Program("local torch", ("benchmarks.systems.local",), is_device=True),
    Program("VirtualWorker", ("benchmarks.systems.ptrtensor", "virtual"), is_device=True),
    Program("ProcessWorker", ("benchmarks.systems.ptrtensor", "process"), is_device=True),
    Program("RemoteWorker", ("benchmarks.systems.ptrtensor", "remote"), is_device=True),
    Program("floor, unix", ("benchmarks.systems.floor", "unix")),
    Program("floor, TCP", ("benchmarks.systems.floor", "tcp")),
    Program("torch rpc", ("benchmarks.systems.rpc",)),
    Program("rgpu", ("benchmarks.systems.rgpu",), PEERS / "rgpu" / "bin" / "python", is_device=True),
    Program("ray", ("benchmarks.systems.ray",), PEERS / "ray" / "bin" / "python"),
)

LOCAL: Final = "local torch"
OURS: Final = ("VirtualWorker", "ProcessWorker", "RemoteWorker")
OTHERS: Final = ("torch rpc", "rgpu", "ray")


class System:
    """A running program. Ends with its standard input."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._complaints = TemporaryFile()
        self._process = subprocess.Popen(
            [program.python, "-m", *program.arguments],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )
        greeting = self._answer()
        self.version = str(greeting["version"])
        self.workloads = frozenset(map(str, greeting["workloads"]))
        self._signal(signal.SIGSTOP)

    def prepare(self, workload: str) -> None:
        with self.awake():
            self._order({"prepare": workload})

    def run(self) -> float:
        """Seconds of one round."""
        with self.awake():
            return float(self._order({"run": True})["seconds"])

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Its processes run within, and are stopped otherwise: some are busy even when nobody asks for anything."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for process in family(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._complaints.seek(0)
            complaints = self._complaints.read().decode(errors="replace")
            raise SystemError(f"{self.program.name} ended with status {status}:\n{complaints}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.stdout.close()
        self._complaints.close()


def family(process: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield process
    for thread in Path(f"/proc/{process}/task").glob("*"):
        with suppress(OSError):
            for child in (thread / "children").read_text().split():
                yield from family(int(child))
