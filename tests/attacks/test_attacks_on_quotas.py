"""What a client does to compute more than its owner grants: none of it goes uncounted."""

import contextlib
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from intruding import Besieged, Intruder, besieged
from waiting import eventually
from wire_samples import command

import ptrtensor as pt
from ptrtensor.owner import allowance
from ptrtensor.owner.state import State
from ptrtensor.transport.resumable import end
from ptrtensor.wire.instruction import Constant, Instruction, Items, ObjectSlot
from ptrtensor.wire.messages import Done, Put, Synchronize
from ptrtensor.wire.metadata import TensorMeta

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")

POLICY = """
[[quota]]
clients = ["alice"]
seconds_per_day = 1000
operations_per_day = 1000
"""


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Besieged]:
    monkeypatch.setattr(allowance, "GRACE_SECONDS", 0.5)
    with besieged(tmp_path, policy=POLICY) as opened:
        yield opened


def used_in_the_end(hospital: Besieged, what: str) -> float:
    hospital.wait_for("session ended", client="alice")
    return used(hospital, what)


def use_up(hospital: Besieged, left: float) -> None:
    """In another session, all but so many seconds, once the start of this one is counted."""
    assert eventually(lambda: used(hospital, "seconds") > 0)
    with contextlib.closing(State(hospital.folder / "state.sqlite")) as state:
        state.use("alice", {"seconds": (1000 - left - used(hospital, "seconds"), None)})


def used(hospital: Besieged, what: str) -> float:
    with contextlib.closing(sqlite3.connect(hospital.folder / "state.sqlite")) as state:
        found = state.execute("SELECT amount FROM used WHERE client = 'alice' AND what = ?", (what,)).fetchone()
    return 0.0 if found is None else float(found[0])


def start_a_long_operation(intruder: Intruder, rows: int) -> None:
    """It computes for half a second with 1000 rows, for some seconds with 2000."""
    shape = Items((Constant(rows), Constant(rows)))
    intruder.run(Instruction(1, "aten::rand", (shape,), {}, True, None), command(1, 7, 2))
    assert intruder.answer(Synchronize(1)) == Done(1)
    intruder.run(Instruction(2, "aten::_linalg_svd", (ObjectSlot(),), {}, False, None), command(2, 2, 3))


def test_who_leaves_while_the_process_computes(hospital: Besieged) -> None:
    with contextlib.closing(Intruder(hospital)) as intruder:
        intruder.greet()
        assert eventually(lambda: used(hospital, "seconds") > 0)
        before = used(hospital, "seconds")
        start_a_long_operation(intruder, 1300)
        time.sleep(0.3)
        intruder.socket.frames(end(""))
        assert used_in_the_end(hospital, "seconds") > before + 0.25
    assert used(hospital, "operations") == 2


def test_to_begin_a_session_counts(hospital: Besieged) -> None:
    """Whoever comes and goes again and again makes the server start one process after the other."""
    with contextlib.closing(Intruder(hospital)) as intruder:
        intruder.greet()
        intruder.socket.frames(end(""))
        first = used_in_the_end(hospital, "seconds")
    assert first > 0.1
    use_up(hospital, -0.6)
    with pytest.raises(pt.WorkerLostError, match="no more seconds today"):
        hospital.connect()


def test_one_long_operation(hospital: Besieged) -> None:
    """It is counted while it runs, and ended when it is too much; then there is no session for that client."""
    with contextlib.closing(Intruder(hospital)) as intruder:
        intruder.greet()
        use_up(hospital, 0.5)
        start_a_long_operation(intruder, 2500)
        assert "no more seconds today" in intruder.socket.ended()
        reason = hospital.wait_for("session ended", client="alice")["reason"]
        assert "no more seconds today" in str(reason)
    assert used(hospital, "seconds") > 1000.0
    with pytest.raises(pt.WorkerLostError, match="no more seconds today"):
        hospital.connect()
    hospital.check_it_serves()


def test_what_is_no_operation(hospital: Besieged) -> None:
    """To take a value in and to give it out computes, too."""
    size = 8 * 2**20
    with contextlib.closing(Intruder(hospital)) as intruder:
        intruder.greet()
        assert eventually(lambda: used(hospital, "seconds") > 0)
        before = used(hospital, "seconds")
        for _ in range(10):
            intruder.say(Put(1, TensorMeta((size,), (1,), "uint8")), bytes(size))
        assert intruder.answer(Synchronize(1)) == Done(1)
        assert eventually(lambda: used(hospital, "seconds") > before)
