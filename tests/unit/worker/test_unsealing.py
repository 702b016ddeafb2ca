"""What arrives sealed takes its name for itself, with a value or without."""

import pytest
import torch
from by_hand import At, ByHand
from torch import Tensor

from ptrtensor._torch.memory import bytes_of, meta_of
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.control import Bytes, Quota, Unsealed
from ptrtensor.wire.messages import Denied, Done
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.owner import Owner
from ptrtensor.worker.session import Session

ROW = torch.tensor([1.0, 2.0])
VALUE = Unsealed(("carol:patients",), {}, meta_of(ROW), bytes(bytes_of(ROW)), "")
FAILED = Unsealed(("carol:patients",), {}, None, b"", "IndexError: no")
WRONG = Unsealed(("carol:patients",), {}, TensorMeta((2**40,), (1,), "float32"), bytes(8), "")
NOTHING = Unsealed(("carol:patients",), {}, None, b"", "")


class Opening(Owner):
    def __init__(self, content: Unsealed) -> None:
        self._content = content

    def unseal(self, box: Bytes) -> Unsealed:
        return self._content


def receiving(content: Unsealed, objects: int = 99) -> ByHand:
    identity = Identity("bob", __version__, str(torch.__version__))
    return ByHand(Session(identity, owner=Opening(content), quota=Quota(None, objects)))


@pytest.mark.parametrize("content", [VALUE, FAILED, WRONG, NOTHING], ids=["value", "failed", "wrong", "nothing"])
@pytest.mark.parametrize("before", ["nothing", "public", "poisoned", "view"])
def test_a_name_holds_one_thing_whatever_it_held_before(content: Unsealed, before: str) -> None:
    """Else the quota of objects would tell whether there is a value; and a label would lie on what is public."""
    session = Session(
        Identity("bob", __version__, str(torch.__version__)), owner=Opening(content), quota=Quota(None, 99)
    )
    hand = ByHand(session)
    base = hand.put(ROW)
    name = 50
    taken: dict[str, tuple[str, list[object], Tensor]] = {
        "public": ("aten::neg", [At(base)], ROW),
        "poisoned": ("aten::neg", [At(999)], ROW),
        "view": ("aten::view", [At(base), [2]], ROW),
    }
    if before != "nothing":
        op, args, expected = taken[before]
        hand.post([hand.command(hand.define(op, *args, expect=[expected]), name)])
    hand.ask(messages.Unseal, Done, name)
    assert len(hand.store.objects) + len(hand.store.poisoned) == 2
    assert hand.state(base, name) == ("oo" if content is VALUE else "ox")
    hand.ask(messages.Fetch, Denied, name)
    hand.run("aten::add_.Tensor", At(name), At(name))
    assert hand.fetch(base).equal(ROW)


def test_it_needs_room_like_any_object() -> None:
    hand = receiving(VALUE, 1)
    hand.ask(messages.Unseal, Done, 1)
    assert "allows 1: drop some" in hand.ask(messages.Unseal, Denied, 2).reason
