"""What the owner decides has a line that says about what."""

import threading
from pathlib import Path

import pytest
from desk import ALICE

from ptrtensor.owner.decisions import note_decisions
from ptrtensor.owner.requests import Decision, Requests
from ptrtensor.owner.state import State
from ptrtensor.wire.control import Asking
from ptrtensor.wire.metadata import TensorMeta

META = TensorMeta((2,), (1,), "float32")


@pytest.mark.parametrize("decision", ["approved", "denied"])
def test_a_decision_is_written_down_once_with_what_it_is_about(tmp_path: Path, decision: Decision) -> None:
    state, stopping = State(tmp_path / "state.sqlite"), threading.Event()
    requests = Requests(state)
    asking = Asking(2**64 - 1, ("patients",), "for a paper", META, bytes(8), "", "aten::mean.dim")
    id = requests.file(ALICE, "5b1fe0a1", asking).id
    decided = requests.decide(id, decision, "cite us")
    lines: list[dict[str, object]] = []
    stopping.set()
    for _ in range(2):
        note_decisions(requests, lambda event, **fields: lines.append({"event": event, **fields}), stopping)
    state.close()
    assert lines == [
        {
            "event": decision,
            "request": id,
            "session": "5b1fe0a1",
            "client": "alice",
            "object": 2**64 - 1,
            "objects": ("patients",),
            "operation": "aten::mean.dim",
            "tensor": "float32[2]",
            "bytes": 8,
            "decider": decided.decider,
            "decided": decided.decided,
            "answer": "cite us",
        }
    ]
