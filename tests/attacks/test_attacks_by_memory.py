"""How much memory is left tells nothing of private data, and none left ends no session."""

import subprocess
import sys
from pathlib import Path

import pytest

PROLOGUE = """
import sys, torch
from by_hand import At, ByHand
from ptrtensor.wire import messages
from ptrtensor.wire.control import Publication
from ptrtensor.worker.memory_limit import limit_memory
from ptrtensor._torch.memory import meta_of
hand, size, secret = ByHand(), 40 * 2**20, torch.tensor([int(sys.argv[1])])
hand.session.publish(Publication("secret", ("#secret",), "", True, "", 0, meta_of(secret)), secret)
hand.handle(messages.Search(1, ("#secret",), 1000))
one = hand.put(torch.zeros(1, 1))
row = hand.run("aten::expand", At(one), [1, size], expect=[torch.zeros(1, 1).expand(1, size)])
whole = torch.empty((1, size), device="meta")
"""

RESULT = """
limit_memory(256 * 2**20)
hand.run("aten::index_select", At(row), 0, At(1000), expect=[meta_of(whole)])
"""

IN_PLACE = """
target = hand.put(torch.zeros(1, 1))
hand.run("aten::resize_", At(target), [2, size])
limit_memory(100 * 2**20)
hand.run("aten::index_add_", At(target), 0, At(1000), At(row))
"""

COPY = """
secret = torch.zeros(size)
hand.session.publish(Publication("large", ("#large",), "", True, "", 0, meta_of(secret)), secret)
hand.handle(messages.Search(1, ("#large",), 2000))
limit_memory(100 * 2**20)
hand.run("aten::_unsafe_view", At(2000), [2, size // 2], expect=[meta_of(whole.view(2, size // 2))])
"""

EPILOGUE = """
print(hand.why(hand.run("aten::zeros", [size], expect=[meta_of(whole.view(size))])).split(":")[0])
print(hand.fetch(one).item())
"""


def told(program: str, secret: int) -> str:
    found = subprocess.run(
        [sys.executable, "-c", PROLOGUE + program + EPILOGUE, str(secret)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process takes")
@pytest.mark.parametrize("program", [RESULT, IN_PLACE, COPY], ids=["a result", "in place", "a copy"])
def test_what_there_is_room_for_is_the_same_whatever_failed(program: str) -> None:
    """An index that is out of range for the second secret alone."""
    assert told(program, 0) == told(program, 7) == "RuntimeError\n0.0\n"
