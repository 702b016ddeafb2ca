"""`make demo`: what it shows at its end, and that no process of it is left behind."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

HOSPITALS = Path(__file__).parents[2] / "examples" / "hospitals.py"
PROC = Path("/proc")

pytestmark = pytest.mark.skipif(not PROC.is_dir(), reason="finds the demo's processes in /proc")


class Demo:
    """A run of the demo in a process group of its own, as a terminal starts it."""

    def __init__(self) -> None:
        self.mark = f"PTRTENSOR_TEST_RUN={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, HOSPITALS],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, name: value},
            start_new_session=True,
        )

    def processes(self) -> list[str]:
        """The command line of each process of this run; all inherit the mark."""
        found = []
        for folder in PROC.glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                pass  # it has ended, or is somebody else's
        return found

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        assert any(text in line for line in self.process.stdout)


@pytest.fixture
def demo() -> Iterator[Demo]:
    demo = Demo()
    with demo.process:
        yield demo
        demo.process.kill()


def row(printed: str, title: str) -> list[str]:
    """The cells of a row of the table."""
    (line,) = (line for line in printed.splitlines() if title in line)
    return [cell.strip() for cell in line.split("│")[2:-1]]


def test_both_ways_learn_the_same_and_only_one_of_them_moves_rows(demo: Demo) -> None:
    printed, complaints = demo.process.communicate()
    assert (demo.process.returncode, complaints) == (0, "")
    assert demo.processes() == []

    at_hospitals, in_one_place = (
        float(re.sub("%.*", "", cell)) for cell in row(printed, "correct on held-out patients")
    )
    assert at_hospitals > 90
    assert at_hospitals == pytest.approx(in_one_place, abs=1)
    assert row(printed, "rows that left their hospital") == ["0", "569"]


def test_the_tutorials_steps_are_shown(demo: Demo) -> None:
    demo.read_until("sy.get(z) = tensor([2, 3, 4, 5, 6])")
    demo.read_until("len(bob.objects) = 0")
    demo.read_until("sy.get(x).grad = tensor([2., 4., 6.])")


def test_ctrl_c_leaves_no_process(demo: Demo) -> None:
    demo.read_until("Training")
    workers = [command for command in demo.processes() if "ptrtensor.worker" in command]
    assert len(workers) == 2

    os.killpg(demo.process.pid, signal.SIGINT)  # as a terminal does
    printed, complaints = demo.process.communicate()
    assert (demo.process.returncode, complaints) == (130, "")
    assert "Interrupted" in printed
    assert demo.processes() == []
