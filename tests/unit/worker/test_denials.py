"""What the owner hears of commands that were not done: what the client hears of, and no more [P11.4]."""

import pytest
import torch
from by_hand import At, ByHand, Field

from ptrtensor._torch.memory import meta_of
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.control import Publication, Quota
from ptrtensor.wire.messages import Failed, Missing
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.executor import MAX_HELD_FAILURES
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.owner import NO_SUCH_OBJECT, TOO_MANY_OBJECTS, TOO_MUCH_MEMORY, Owner
from ptrtensor.worker.session import Session
from ptrtensor.worker.store import PUBLIC, Labels

ROW = torch.zeros(2)
HUGE = torch.empty(2**50, device="meta")
SECRET = 1000

Noted = tuple[str, int | None, Labels, str, str]


class Listening(Owner):
    """Keeps what it hears; what is `open` may be read."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.heard: list[Noted] = []
        self._is_open = is_open

    def is_open(self, labels: Labels) -> bool:
        return self._is_open

    def note_denial(
        self,
        what: str,
        name: int | None = None,
        labels: Labels = PUBLIC,
        operation: str = "",
        meta: TensorMeta | None = None,
    ) -> None:
        self.heard.append((what, name, labels, operation, str(meta or "")))


def heard_by(owner: Listening, objects: int | None = None) -> ByHand:
    """With a private row."""
    hand = ByHand(
        Session(Identity("bob", __version__, str(torch.__version__)), owner=owner, quota=Quota(None, objects))
    )
    hand.session.publish(Publication("secret", ("#secret",), "", True, "", 0, meta_of(ROW)), ROW)
    hand.handle(messages.Search(1, ("#secret",), SECRET))
    return hand


@pytest.mark.parametrize(
    ("op", "what"),
    [
        ("aten::from_file", "to run aten::from_file"),
        ("aten::bernoulli", "to run aten::bernoulli"),
        ("aten::no_such_operation", "to run what torch does not have"),
        ("aten::add.NoSuch", "to run what torch does not have"),
    ],
)
@pytest.mark.parametrize("private", [False, True])
def test_an_operation_that_is_refused_is_told_of_when_it_is_defined(op: str, what: str, private: bool) -> None:
    """Whether or not it is to be run on something private."""
    owner = Listening()
    hand = heard_by(owner)
    hand.run(op, At(SECRET if private else hand.put(ROW)), "/etc/passwd")
    assert owner.heard == [(what, None, PUBLIC, op, "")]


def test_more_memory_than_there_is() -> None:
    owner = Listening()
    hand = heard_by(owner)
    x = hand.put(ROW)
    made = [
        hand.run("aten::zeros", [2**50], expect=[HUGE]),
        hand.run("aten::zeros", [2**62, 2**62], expect=None),
    ]
    wide = hand.run("aten::expand", At(hand.put(torch.zeros(1))), [2**50], expect=[torch.zeros(1).expand(2**50)])
    assert "allocate" in hand.ask(messages.Fetch, Failed, wide).failure.error
    announced = TensorMeta((2**40,), (1,), "uint8")
    hand.handle(messages.Put(77, announced))  # as it comes where there was no memory for its bytes
    hand.run("aten::mm", At(x), At(x), expect=None)
    assert owner.heard == [
        (TOO_MUCH_MEMORY, made[0], PUBLIC, "aten::zeros", str(meta_of(HUGE))),
        (TOO_MUCH_MEMORY, made[1], PUBLIC, "aten::zeros", ""),
        (TOO_MUCH_MEMORY, wide, PUBLIC, "", f"float32[{2**50}]"),
        (TOO_MUCH_MEMORY, 77, PUBLIC, "", str(announced)),
    ]


def test_an_object_that_is_not_here() -> None:
    owner = Listening()
    hand = heard_by(owner)
    made = hand.run("aten::neg", At(2**63), expect=[ROW])
    hand.run("aten::neg", At(made), expect=[ROW])  # only hangs on it
    for message in messages.Fetch, messages.Describe:
        hand.ask(message, Missing, 2**64 - 1)
    assert owner.heard == [
        (NO_SUCH_OBJECT, 2**63, PUBLIC, "aten::neg", ""),
        *[(NO_SUCH_OBJECT, 2**64 - 1, PUBLIC, "", "")] * 2,
    ]


def test_an_object_too_many() -> None:
    owner = Listening()
    hand = heard_by(owner, objects=3)
    x = hand.put(ROW)
    made, sent = hand.run("aten::neg", At(x), expect=[ROW]), hand.put(ROW)
    private = hand.run("aten::neg", At(SECRET), expect=[ROW])
    hand.handle(messages.Search(2, ("#secret",), 2000))
    assert owner.heard == [
        (TOO_MANY_OBJECTS, made, PUBLIC, "aten::neg", "float32[2]"),
        (TOO_MANY_OBJECTS, sent, PUBLIC, "", "float32[2]"),
        (TOO_MANY_OBJECTS, private, frozenset({"secret"}), "aten::neg", "float32[2]"),
        (TOO_MANY_OBJECTS, 2000, PUBLIC, "", ""),
    ]


@pytest.mark.parametrize("is_open", [False, True])
def test_what_failed_on_private_data_is_told_where_its_client_is_told_too(is_open: bool) -> None:
    owner = Listening(is_open=is_open)
    hand = heard_by(owner)
    hand.run("aten::repeat", At(SECRET), [2**50], expect=None)
    hand.run("aten::add.Tensor", At(SECRET), At(2**63), expect=[ROW])
    assert len(hand.failures) == len(owner.heard) == (2 if is_open else 0)
    if is_open:
        assert [what for what, *_ in owner.heard] == [TOO_MUCH_MEMORY, NO_SUCH_OBJECT]
        assert owner.heard[0][2] == frozenset({"secret"})
    hand.run("aten::neg", At(2**63), expect=[ROW])
    assert owner.heard[-1] == (NO_SUCH_OBJECT, 2**63, PUBLIC, "aten::neg", ""), "and so is what comes after it"


def test_nothing_hides_behind_many_failures() -> None:
    owner = Listening()
    hand = heard_by(owner)
    shapes, fields = hand.define("aten::mm", At(hand.put(ROW)), At(hand.put(ROW)), expect=[ROW])
    bomb = hand.define("aten::zeros", [Field(2**50)], expect=[ROW])
    failing = [hand.command((shapes, fields), 10**6 + number) for number in range(MAX_HELD_FAILURES + 1)]
    hand.post([*failing, hand.command(bomb, 5)])
    assert [what for what, *_ in owner.heard] == [TOO_MUCH_MEMORY]


def test_an_owner_of_this_process_hears_nothing() -> None:
    hand = ByHand()
    hand.run("aten::from_file", "/etc/passwd", expect=None)
    assert len(hand.failures) == 1
