"""`make demo`: what it shows at its end, and that no process of it is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

HOSPITALS = Path(__file__).parents[2] / "examples" / "hospitals.py"
PROC = Path("/proc")

pytestmark = [
    pytest.mark.skipif(not PROC.is_dir(), reason="finds the demo's processes in /proc"),
    pytest.mark.timeout(300),  # it starts processes and trains, perhaps beside other tests
]


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

    def press_ctrl_c(self) -> tuple[str, str]:
        """What it prints from then on. CPython loses an interruption that falls into a destructor: press again."""
        for _ in range(3):
            os.killpg(self.process.pid, signal.SIGINT)  # as a terminal does
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.communicate(timeout=20)
        raise AssertionError("the demo does not end on Ctrl-C")


@pytest.fixture
def demo() -> Iterator[Demo]:
    demo = Demo()
    with demo.process:
        yield demo
        demo.process.kill()


def cells(printed: str, title: str) -> list[str]:
    """A row of the table, without its title."""
    (row,) = (line for line in printed.splitlines() if title in line)
    return [cell.strip() for cell in row.split("│")[2:-1]]


def test_it_shows_the_tutorial_and_learns_as_well_as_in_one_place_with_no_row_leaving(demo: Demo) -> None:
    printed, complaints = demo.process.communicate()
    assert (demo.process.returncode, complaints) == (0, "")
    assert demo.processes() == []

    assert "sy.get(z) = tensor([2, 3, 4, 5, 6])" in printed
    assert "len(bob.objects) = 0" in printed
    assert "sy.get(x).grad = tensor([2., 4., 6.])" in printed

    shares = [float(cell.partition("%")[0]) for cell in cells(printed, "correct on held-out patients")]
    assert min(shares) > 90
    assert shares[0] == pytest.approx(shares[1], abs=1)
    assert cells(printed, "rows that left their hospital") == ["0", "569"]


def test_ctrl_c_leaves_no_process(demo: Demo) -> None:
    demo.read_until("Training")
    assert sum("ptrtensor.worker" in command for command in demo.processes()) == 2

    printed, complaints = demo.press_ctrl_c()
    assert demo.process.returncode == 130
    assert "Interrupted" in printed
    assert complaints == "" or complaints.startswith("Exception ignored in")
    assert demo.processes() == []
