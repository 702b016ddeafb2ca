"""What a session may use: objects are counted whatever is in them, and memory ends where it is said."""

import itertools

import pytest
import torch
from by_hand import At, ByHand

from ptrtensor._torch.memory import meta_of
from ptrtensor.errors import ProtocolError, QuotaExceededError
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.control import Publication, Quota
from ptrtensor.wire.limits import MAX_RESULTS
from ptrtensor.wire.messages import Failed, Found
from ptrtensor.worker import meter as module
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.owner import Owner
from ptrtensor.worker.session import Session

ROW = torch.zeros(2)


class Counting(Owner):
    """Allows so many operations."""

    def __init__(self, most: int) -> None:
        self.left = most

    def check_consumption(self, operations: int) -> None:
        self.left -= operations
        if self.left < 0:
            raise QuotaExceededError("no more today")


def limited(objects: int | None, owner: Owner | None = None, *, metered: bool = False) -> ByHand:
    identity = Identity("bob", __version__, str(torch.__version__))
    return ByHand(Session(identity, owner=owner, quota=Quota(None, objects, metered)))


def test_so_many_objects_and_no_more() -> None:
    hand = limited(3)
    kept = [hand.put(ROW) for _ in range(2)]
    third = hand.run("aten::neg", At(kept[0]), expect=[ROW])
    assert hand.failures == [] and hand.state(*kept, third) == "ooo"
    fourth, fifth = hand.run("aten::neg", At(kept[0]), expect=[ROW]), hand.put(ROW)
    hand.handle(messages.Synchronize(1))
    assert hand.state(*kept, third, fourth, fifth) == "oooxx"
    assert [failure.error for failure in hand.failures] == [
        f"QuotaExceededError: there are {count} objects, and the owner of the worker allows 3: drop some"
        for count in (3, 4)
    ]


def test_what_is_dropped_makes_room() -> None:
    hand = limited(2)
    kept = [hand.put(ROW) for _ in range(2)]
    refused = hand.run("aten::neg", At(kept[0]), expect=[ROW])
    hand.drop(kept[1], refused)
    assert hand.state(hand.run("aten::neg", At(kept[0]), expect=[ROW])) == "o"


def test_a_refused_write_changes_nothing_and_can_be_taken_back() -> None:
    hand = limited(2)
    x, y = hand.put(ROW), hand.put(torch.ones(2))
    hand.run("aten::add_.Tensor", At(x), At(y))
    assert hand.state(x) == "x"
    hand.handle(messages.Recover(1))
    assert hand.state(x) == "o"


def test_a_search_needs_room() -> None:
    hand = limited(2)
    hand.session.publish(Publication("a", ("#a",), "", True, "", 0, meta_of(ROW)), ROW)
    hand.ask(messages.Search, Found, ("#a",), 100)
    assert "QuotaExceededError" in hand.ask(messages.Search, Failed, ("#a",), 200).failure.error


def test_who_goes_on_and_on_is_shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RESULTS", 4)
    assert MAX_RESULTS > 4
    hand = limited(2)
    with pytest.raises(ProtocolError, match="and does not stop"):
        for _ in itertools.repeat(None, 20):
            hand.put(ROW)
    assert len(hand.store.poisoned) <= 2 * 2 + 4


def test_all_results_of_a_command_need_room() -> None:
    hand = limited(4)
    x = hand.put(torch.zeros(4))
    hand.run("aten::unbind.int", At(x), expect=[torch.zeros(())] * 4)
    assert hand.failures[0].error.startswith("QuotaExceededError: there are 1 objects")
    hand.drop(*hand.store.poisoned)
    made = hand.run("aten::split.Tensor", At(x), 2, expect=[torch.zeros(2)] * 2)
    assert hand.state(made) == "o"


def test_without_a_limit_there_is_none() -> None:
    hand = limited(None, Counting(0))
    for _ in range(100):
        hand.run("aten::neg", At(hand.put(ROW)), expect=[ROW])
    assert hand.failures == []


def test_operations_are_counted_whether_they_fail_or_not() -> None:
    owner = Counting(3)
    hand = limited(None, owner, metered=True)
    x = hand.put(ROW)
    hand.run("aten::neg", At(999), expect=[ROW])
    hand.run("aten::add.Tensor", At(x), At(hand.put(torch.ones(3))), expect=[ROW])
    hand.run("aten::neg", At(x), expect=[ROW])
    assert owner.left == 0
    refused = hand.run("aten::neg", At(x), expect=[ROW])
    assert hand.why(refused) == "QuotaExceededError: no more today" and hand.fetch(x).equal(ROW)
