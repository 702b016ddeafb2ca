"""Memory ends where it is said, and what is published is beside it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process takes")

SCRIPT = """
import threading, torch
from ptrtensor.worker.memory_limit import limit_memory
torch.ones(2) + 1
limit_memory(64 * 2**20)
small = torch.ones(2**20)
for make in (lambda: torch.ones(2**26), lambda: bytearray(2**27)):
    try:
        make()
    except (RuntimeError, MemoryError) as error:
        print(type(error).__name__)
print(float((small + 1).sum()))
"""


def test_memory_ends_where_it_is_said() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == ["RuntimeError", "MemoryError", str(float(2**21))], found.stderr


MAPPING = """
import resource, sys, torch
from pathlib import Path
from ptrtensor.wire.control import Publication
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.memory_limit import limit_memory
from ptrtensor.worker.publications import mapped
size = 2**28
def published(offset, size):
    return Publication("x", (), "", True, sys.argv[1], offset, TensorMeta((size,), (1,), "uint8"))
torch.ones(2) + 1
limit_memory(64 * 2**20)
before = resource.getrlimit(resource.RLIMIT_DATA)[0]
tensor = mapped(published(5, size))
print(int(tensor[-1]), int(tensor.add_(1)[-1]))
for make in (lambda: torch.ones(2**26), lambda: mapped(published(100, size))):
    try:
        make()
    except Exception as error:
        print(type(error).__name__)
del tensor
small = mapped(published(0, 1000))
print(resource.getrlimit(resource.RLIMIT_DATA)[0] - before)
"""


def test_what_is_mapped_does_not_count_and_gives_nothing_when_it_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "data"
    with file.open("wb") as stream:
        stream.truncate(2**28 + 4)
        stream.seek(2**28 + 4)
        stream.write(b"\7")
    command = [sys.executable, "-c", MAPPING, str(file)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == ["7", "8", "RuntimeError", "PtrTensorError", "0"], found.stderr
