"""ptrtensor: `python -m benchmarks.systems.ptrtensor virtual|process|remote`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import ptrtensor as pt
from benchmarks.driver import drive
from benchmarks.workload import Place
from benchmarks.workloads import ordinary


@contextmanager
def listener() -> Iterator[str]:
    """A worker behind a TCP port of this machine; gives its address."""
    command = [sys.executable, "-m", "ptrtensor.worker", "--listen", "127.0.0.1:0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@contextmanager
def worker(kind: str) -> Iterator[pt.Worker]:
    match kind:
        case "virtual":
            with closing(pt.VirtualWorker(id="bob")) as bob:
                yield bob
        case "process":
            with closing(pt.ProcessWorker(id="bob")) as bob:
                yield bob
        case _:
            with listener() as address, closing(pt.RemoteWorker(address)) as bob:
                yield bob


if __name__ == "__main__":
    with worker(sys.argv[1]) as bob:
        drive(ordinary(Place(bob.device, bob.synchronize)), bob.synchronize, pt.__version__)
