"""Python programs in processes of their own: what a program prints, how it ends, and who is left of it.

`start` and `run` take them from a nursery: a process that has imported torch and ptrtensor already and forks for
each program, which spares each of them the seconds of importing. From there on it is a program like any other: it
is `__main__`, leads a process group of its own, and ends by the interpreter's ordinary way out.
"""

import atexit
import contextlib
import functools
import itertools
import json
import linecache
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypedDict, cast

SECONDS: Final = 60.0
"""How long a program may take before a test gives up."""

SOURCE: Final = Path(__file__).parents[2] / "src"

ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}

WARM_UP: Final = """
import torch, ptrtensor as pt
bob = pt.VirtualWorker(id="warm-up")
torch.add(pt.send(torch.ones(2), bob), 1).cpu()
bob.close()
del bob
"""


class Order(TypedDict):
    """A program that the nursery is to start."""

    path: str
    output: str
    errors: str
    environment: dict[str, str]


def until(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of one until its parent asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until_gone(pid: int, seconds: float = SECONDS) -> None:
    until(lambda: not is_running(pid), f"process {pid} to end", seconds)


def children(pid: int) -> list[int]:
    """The processes that this one started and that still run."""
    files = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for file in files for child in file.read_text().split()]


def resident_bytes(pid: int) -> int:
    """The memory that a process takes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Program:
    """One program of the nursery. Used as a context manager it is gone at the end."""

    def __init__(self, pid: int, output: Path, errors: Path) -> None:
        self.pid = pid
        self._output = output
        self._errors = errors
        self._status: int | None = None

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def says(self, start: str) -> str:
        """The rest of the first line that begins so, once the program has printed it; it has to flush."""

        def told() -> list[str]:
            return [
                line for line in self.output.splitlines(keepends=True) if line.startswith(start) and line[-1] == "\n"
            ]

        until(lambda: bool(told()) or not is_running(self.pid), f"{start!r} of {self.pid}")
        assert told(), f"the program ended without saying {start!r}:\n{self.output}\n{self.errors}"
        return told()[0].removeprefix(start).strip()

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def ends(self, seconds: float = SECONDS) -> int:
        """The exit status, as `subprocess` gives it: negative for a signal."""
        until(lambda: not is_running(self.pid), f"program {self.pid} to end:\n{self.output}\n{self.errors}", seconds)
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(int(nursery().ask({"wait": self.pid})))
        return self._status

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.ends()


class Nursery:
    """The process that programs are forked from; it ends when this one closes its input."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            text=True,
        )
        self.folder = Path(tempfile.mkdtemp(prefix="ptrtensor-programs-"))
        self.numbers = itertools.count(1)
        atexit.register(self.close)

    def ask(self, order: Mapping[str, object]) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def close(self) -> None:
        self.process.communicate()
        for file in self.folder.iterdir():
            file.unlink()
        self.folder.rmdir()


@functools.cache
def nursery() -> Nursery:
    return Nursery()


def start(code: str, **environment: str) -> Program:
    """Start a program, given as text."""
    home = nursery()
    path = home.folder / f"program{next(home.numbers)}.py"
    path.write_text(textwrap.dedent(code))
    output, errors = path.with_suffix(".out"), path.with_suffix(".err")
    output.touch()
    errors.touch()
    order = Order(path=str(path), output=str(output), errors=str(errors), environment=environment)
    return Program(int(home.ask(order)), output, errors)


class Finished(TypedDict):
    status: int
    output: str
    errors: str


def run(code: str, **environment: str) -> Finished:
    """Run a program to its end."""
    with start(code, **environment) as program:
        status = program.ends()
        return Finished(status=status, output=program.output, errors=program.errors)


# --- in the nursery


def orders() -> Iterator[dict[str, Any]]:
    # Read byte by byte: a buffer would be inherited by the programs.
    line = b""
    while byte := os.read(0, 1):
        line += byte
        if byte == b"\n":
            yield json.loads(line)
            line = b""


def serve() -> Order | None:
    """Fork for each order. Returns in the forked processes, with what is theirs to do, and at the end."""
    for order in orders():
        if "wait" in order:
            answer = os.waitpid(order["wait"], 0)[1]
        elif (answer := os.fork()) == 0:
            os.setsid()
            return cast(Order, order)
        os.write(1, f"{answer}\n".encode())
    return None


def become(order: Order) -> None:
    """Take a program's place: its streams, its environment, its `__main__`."""
    for descriptor, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["output"], os.O_WRONLY | os.O_APPEND),
        (2, order["errors"], os.O_WRONLY | os.O_APPEND),
    ):
        opened = os.open(name, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.update(order["environment"])
    path = order["path"]
    sys.argv = [path]
    linecache.checkcache(path)
    program = compile(Path(path).read_text(), path, "exec")
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = path
    exec(program, vars(main))


if __name__ == "__main__":
    exec(WARM_UP, {})
    _order = serve()
    if _order is not None:
        become(_order)
