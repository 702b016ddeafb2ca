"""The roads by which values leave: what each asks the owner, and what it says where he refuses."""

from pathlib import Path

import pytest
import torch
from by_hand import At, ByHand
from desk import Desk, judged
from torch import Tensor

from ptrtensor._torch.memory import bytes_of, meta_of
from ptrtensor.owner.policy import Policy, Rule
from ptrtensor.owner.state import State
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.control import Asking, Publication, Reading
from ptrtensor.wire.limits import MAX_RELEASE_BYTES
from ptrtensor.wire.messages import Denied, Described, Failed, Missing, Releases, Value
from ptrtensor.worker.exits import scalar
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session

ROW = torch.tensor([1.0, 2.0, 3.0, 4.0])
POLICY = Policy(
    rule=(
        Rule(tags=("#open",), read="always"),
        Rule(tags=("#limited",), read="always", elements_per_day=2**40),
        Rule(tags=("#asked",), read="ask"),
    )
)
CLOSED, OPEN, LIMITED, ASKED = 100, 200, 300, 400


def publication(name: str) -> Publication:
    return Publication(name, (f"#{name}",), "", True, "", 0, meta_of(ROW))


@pytest.fixture
def hand(tmp_path: Path) -> ByHand:
    """With four published tensors, each under a name of its own."""
    names = ("closed", "open", "limited", "asked")
    owner = judged(POLICY, tuple(map(publication, names)), State(tmp_path / "state.sqlite"))
    made = ByHand(Session(Identity("bob", __version__, str(torch.__version__)), owner=owner))
    for first, name in enumerate(names, 1):
        made.session.publish(publication(name), ROW)
        made.handle(messages.Search(1, (f"#{name}",), 100 * first))
    made.owner = owner  # type: ignore[attr-defined]
    return made


def questions(hand: ByHand, kind: type) -> list[object]:
    desk = hand.owner._channel  # type: ignore[attr-defined]
    assert isinstance(desk, Desk)
    return [question for question in desk.asked if isinstance(question, kind)]


def failed(hand: ByHand, x: int) -> int:
    """A name whose operation failed, and was made of this."""
    index = hand.run("aten::_to_copy", At(x), dtype=torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    return hand.run("aten::index_select", At(hand.put(torch.ones(1))), 0, At(index), expect=[ROW])


def test_what_is_public_is_nobody_s_business(hand: ByHand) -> None:
    assert hand.fetch(hand.put(ROW)).equal(ROW)
    assert questions(hand, Reading) == []
    assert isinstance(hand.ask(messages.Fetch, Missing, 999), Missing)
    assert isinstance(hand.ask(messages.Describe, Missing, 999), Missing)


@pytest.mark.parametrize("name", [CLOSED, ASKED])
def test_what_is_closed_is_denied_whether_it_is_there_or_not(hand: ByHand, name: int) -> None:
    for made in name, failed(hand, name), hand.run("aten::nonzero", At(name), expect=None):
        for message in messages.Fetch, messages.Describe:
            hand.ask(message, Denied, made)
    assert questions(hand, Reading) == []


@pytest.mark.parametrize("name", [OPEN, LIMITED])
def test_what_is_read_is_asked_for_with_its_size(hand: ByHand, name: int) -> None:
    label = "open" if name == OPEN else "limited"
    assert hand.fetch(name).equal(ROW)
    hand.fetch(hand.run("aten::select.int", At(name), 0, 1, expect=[torch.tensor(0.0)]))
    hand.fetch(hand.run("aten::slice.Tensor", At(name), 0, 0, 0, expect=[torch.zeros(0)]))
    told = hand.ask(messages.Fetch, Failed, failed(hand, name)).failure
    assert ("index out of range" in told.error) is (name == OPEN), "torch's words may hold many numbers"
    assert bool(told.traceback) is (name == OPEN)
    asked = [one for one in questions(hand, Reading) if isinstance(one, Reading)]
    said = [(one.tensor, one.labels, one.elements, one.size, one.operation) for one in asked]
    assert said == [
        ("float32[4]", (label,), 4, 16, ""),
        ("float32[]", (label,), 1, 4, "aten::select.int"),
        ("float32[0]", (label,), 1, 1, "aten::slice.Tensor"),
        ("", (label,), 1, 8, "aten::index_select"),
    ]


def test_of_what_was_written_to_the_last_operation_is_told(hand: ByHand) -> None:
    buffer = hand.put(torch.zeros(4))
    hand.run("aten::add_.Tensor", At(buffer), At(OPEN), expect=[])
    hand.fetch(buffer)
    hand.run("aten::mul_.Tensor", At(buffer), 2, expect=[])
    hand.fetch(buffer)
    said = [one.operation for one in questions(hand, Reading) if isinstance(one, Reading)]
    assert said == ["aten::add_.Tensor", "aten::mul_.Tensor"]
    hand.drop(buffer)
    assert buffer not in hand.store.origins


@pytest.mark.parametrize("name", [OPEN, LIMITED])
def test_how_a_value_was_laid_out_leaves_with_what_is_open_alone(hand: ByHand, name: int) -> None:
    """Who looks at what is to be released sees no strides, and they may be made of numbers."""
    square = hand.run("aten::view", At(name), [2, 2], expect=[torch.zeros(2, 2)])
    turned = hand.run("aten::t", At(square), expect=[torch.zeros(2, 2).t()])
    value = hand.fetch(turned)
    assert value.equal(ROW.view(2, 2).t())
    assert value.stride() == ((1, 2) if name == OPEN else (2, 1))
    hand.run("aten::as_strided_", At(name), [1, 1], [44, 51], 0)
    assert hand.fetch(name).stride() == ((44, 51) if name == OPEN else (1, 1))


def test_bits_that_make_no_difference_do_not_leave(hand: ByHand) -> None:
    bits = hand.put(torch.tensor([0x7FC00000, 0x7FC00033, -0x3FFFCD, 0x3F800000], dtype=torch.int32))
    numbers = hand.run("aten::view.dtype", At(bits), torch.float32, expect=[torch.zeros(4)])
    private = hand.run("aten::where.self", At(hand.put(torch.ones(4) > 0)), At(numbers), At(LIMITED), expect=[ROW])
    nan = hand.fetch(private).view(torch.int32)
    assert nan.tolist() == [0x7FC00000] * 3 + [0x3F800000]
    octets = hand.run("aten::_to_copy", At(LIMITED), dtype=torch.uint8, expect=[ROW.to(torch.uint8)])
    truths = hand.run("aten::view.dtype", At(octets), torch.bool, expect=[ROW > 0])
    assert hand.fetch(truths).view(torch.uint8).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("name", "taken"), [(OPEN, True), (LIMITED, False)])
def test_a_private_number_is_no_argument(hand: ByHand, name: int, taken: bool) -> None:
    number = hand.run("aten::select.int", At(name), 0, 1, expect=[torch.tensor(0.0)])
    whole = hand.run("aten::_to_copy", At(number), dtype=torch.int64, expect=[torch.tensor(0)])
    size = hand.run("aten::_local_scalar_dense", At(whole), expect=[None])
    target = hand.put(torch.zeros(7))
    hand.run("aten::resize_", At(target), [At(size)])
    if taken:
        assert hand.fetch(target).shape == (int(ROW[1]),)
    else:
        assert "a private number is no argument" in hand.why(target)


@pytest.mark.parametrize("sizes", [[2**30, 2**32], [2**40, 2**22], [2**61, 2]])
@pytest.mark.parametrize("name", [OPEN, LIMITED])
def test_sizes_beyond_all_measure(hand: ByHand, name: int, sizes: list[int]) -> None:
    """A view of one number, which would be 2 ** 64 bytes."""
    number = hand.run("aten::select.int", At(name), 0, 1, expect=[torch.tensor(0.0)])
    large = torch.empty((), device="meta").expand(sizes)
    view = hand.run("aten::expand", At(number), sizes, expect=[meta_of(large)])
    replies = hand.handle(messages.Fetch(1, view))
    assert isinstance(replies[0], Denied if name == LIMITED else Failed)
    assert hand.fetch(name).equal(ROW), "and the session goes on"


def test_what_depends_on_values_is_told_of_what_is_open_alone(hand: ByHand) -> None:
    described = {name: hand.run("aten::nonzero", At(name), expect=None) for name in (OPEN, LIMITED)}
    found = hand.ask(messages.Describe, Described, described[OPEN])
    assert found.fresh[0] is not None and found.fresh[0].meta.shape == (4, 1)
    assert hand.fetch(described[OPEN]).shape == (4, 1)
    hand.ask(messages.Describe, Denied, described[LIMITED])
    mixed = hand.run("aten::add.Tensor", At(OPEN), At(CLOSED), expect=[ROW])
    hand.ask(messages.Describe, Denied, hand.run("aten::nonzero", At(mixed), expect=None))


def test_all_results_of_what_is_open_are_written_down(hand: ByHand) -> None:
    """Not the first one's name alone has labels."""
    first = hand.run("aten::unbind.int", At(OPEN), expect=None)
    for name in range(first, first + 4):
        assert hand.store.labels[name] == {"open"}
        hand.fetch(name)
    assert len(questions(hand, Reading)) == 4


# --- requests


def release(hand: ByHand, name: int) -> messages.Release:
    (found,) = hand.ask(messages.AskRelease, Releases, name, "for science").releases
    return found


def last(hand: ByHand) -> Asking:
    asked = questions(hand, Asking)[-1]
    assert isinstance(asked, Asking)
    return asked


@pytest.mark.parametrize(
    "value",
    [
        ROW,
        torch.tensor(1.5),
        torch.zeros(0, 3),
        torch.tensor([1 + 2j, 3j]).conj(),
        torch.arange(6).reshape(2, 3).t()[1:],
        torch.ones(1).expand(3),
        torch.tensor([True]),
    ],
)
def test_the_value_goes_as_it_is_now(hand: ByHand, value: Tensor) -> None:
    name = hand.put(torch.zeros(2))
    hand.store.objects[name] = value.clone() if value.is_contiguous() else value
    hand.store.label(name, frozenset({"asked"}))
    assert release(hand, name).status == "pending"
    asking = last(hand)
    assert (asking.name, asking.labels, asking.failure) == (name, ("asked",), "")
    assert (
        asking.meta is not None and asking.meta.shape == tuple(value.shape) and len(asking.value) == asking.meta.nbytes
    )
    if value.is_contiguous() and not value.is_conj():
        assert asking.value == bytes(bytes_of(value))


@pytest.mark.parametrize(("value", "dtype"), [(True, torch.bool), (7, torch.int64), (0.1, torch.float64)])
def test_a_number_goes_as_a_tensor(value: bool | int | float, dtype: torch.dtype) -> None:
    assert scalar(value).dtype is dtype and scalar(value).item() == value


def test_what_has_no_value_gets_the_same_answer(hand: ByHand) -> None:
    names = {
        "IndexError": failed(hand, ASKED),
        "there is no value": hand.run("aten::nonzero", At(ASKED), expect=None),
        "more than 16777216 bytes": hand.run(
            "aten::expand", At(ASKED), [MAX_RELEASE_BYTES, 4], expect=[ROW.expand(MAX_RELEASE_BYTES, 4)]
        ),
    }
    for reason, name in names.items():
        assert release(hand, name).status == "pending"
        assert (last(hand).meta, last(hand).value) == (None, b"") and reason.split()[0] in last(hand).failure


def test_what_may_not_be_asked_for(hand: ByHand) -> None:
    for name in CLOSED, hand.put(ROW), 999:
        hand.ask(messages.AskRelease, Denied, name, "x")
    assert questions(hand, Asking) == []
    assert hand.ask(messages.ListReleases, Releases).releases == []
    for id in "", "1f", "x" * 100_000:
        assert len(hand.ask(messages.CollectRelease, Denied, id).reason) < 200


def test_a_value_that_was_approved(hand: ByHand, tmp_path: Path) -> None:
    ids = [release(hand, name).id for name in (ASKED, failed(hand, ASKED))]
    state = State(tmp_path / "state.sqlite")
    with state.transaction() as database:
        database.execute("UPDATE requests SET status = 'approved'")
    state.close()
    ((reply, data),) = hand.session.handle(messages.CollectRelease(1, ids[0]), memoryview(b""))
    assert isinstance(reply, Value) and reply.meta is not None and data == bytes(bytes_of(ROW))
    assert "IndexError" in hand.ask(messages.CollectRelease, Failed, ids[1]).failure.error
