"""A session: each message and its answer, resent batches, settings that hold only while a message is handled."""

import struct
from collections.abc import Iterator

import pytest
import torch
from by_hand import At, ByHand, Deviceless, Field, aten, session
from torch import Tensor

from ptrtensor._torch.flags import read_flags, write_flags
from ptrtensor._torch.memory import meta_of
from ptrtensor.errors import ProtocolError
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.instruction import DROP, DROP_HEADER, NUMBER, Instruction, NamedConstant, ObjectSlot
from ptrtensor.wire.limits import MAX_INSTRUCTIONS, PROTOCOL_VERSION
from ptrtensor.wire.messages import Settings
from ptrtensor.wire.metadata import TensorMeta

NOTHING = memoryview(b"")
TORCH = str(torch.__version__)
A = torch.arange(6.0).reshape(2, 3)


@pytest.fixture(autouse=True)
def _flags_as_before() -> Iterator[None]:
    """Whatever a failing test of this file leaves behind is not the next one's business."""
    before = read_flags()
    yield
    write_flags(before)


# --- the handshake [P1.4]


def greeted(hello: messages.Hello) -> messages.WorkerMessage:
    ((reply, _),) = session().handle(hello, NOTHING)
    return reply


@pytest.mark.parametrize("version", [TORCH, TORCH.split("+")[0], "2.13.99", "2.13.0a0+git123"])
def test_welcome(version: str) -> None:
    reply = greeted(messages.Hello(PROTOCOL_VERSION, "0.0.1", version))
    assert isinstance(reply, messages.Welcome)
    assert (reply.protocol, reply.ptrtensor, reply.torch) == (PROTOCOL_VERSION, __version__, TORCH)
    assert (reply.worker, reply.compute_device) == ("bob", "cpu")


def test_epochs_differ() -> None:
    replies = [greeted(messages.Hello(PROTOCOL_VERSION, __version__, TORCH)) for _ in range(2)]
    first, second = (reply.epoch for reply in replies if isinstance(reply, messages.Welcome))
    assert first != second


@pytest.mark.parametrize(
    ("hello", "named"),
    [
        (messages.Hello(PROTOCOL_VERSION + 1, "9.9", TORCH), (f"version {PROTOCOL_VERSION}", "9.9")),
        (messages.Hello(0, "0.0.1", TORCH), (f"version {PROTOCOL_VERSION}", "0.0.1")),
        (messages.Hello(PROTOCOL_VERSION, __version__, "2.12.1"), (TORCH, "2.12.1", "install")),
        (messages.Hello(PROTOCOL_VERSION, __version__, "3.13.0"), (TORCH, "3.13.0", "install")),
        (messages.Hello(PROTOCOL_VERSION, __version__, ""), (TORCH, "install")),
    ],
)
def test_another_version_is_refused_and_both_are_named(hello: messages.Hello, named: tuple[str, ...]) -> None:
    reply = greeted(hello)
    assert isinstance(reply, messages.Refused) and reply.version
    assert all(part in reply.reason for part in named)


# --- each message


@pytest.mark.parametrize(
    "tensor",
    [A, A.t(), torch.tensor(3), torch.empty(0, 2), torch.tensor([True]), torch.ones(2, dtype=torch.bfloat16)],
    ids=lambda tensor: str(meta_of(tensor)),
)
@pytest.mark.parametrize("host", [True, False])
def test_put_and_fetch(tensor: Tensor, host: bool) -> None:
    hand = ByHand()
    name = hand.put(tensor)
    found = hand.fetch(name)
    assert torch.equal(found, tensor) and meta_of(found).same_as(meta_of(tensor))


@pytest.mark.parametrize(
    ("value", "fetched"),
    [
        (A[:, ::2], A[:, ::2]),
        (torch.ones(3, 1).expand(3, 4), torch.ones(3, 4)),
        (torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])),
        (torch.tensor([1 + 2j]).conj().imag, torch.tensor([-2.0])),
        (torch.ops.aten._efficientzerotensor([2]), torch.zeros(2)),
    ],
    ids=["gaps", "overlapping", "conjugated", "negated", "without memory"],
)
def test_what_is_fetched_is_dense(value: Tensor, fetched: Tensor) -> None:
    hand = ByHand()
    hand.store.objects[1] = value
    assert torch.equal(hand.fetch(1), fetched)


def test_a_put_that_cannot_be_made_poisons_its_name() -> None:
    hand = ByHand()
    hand.handle(messages.Put(5, TensorMeta((2,), (10**17,), "float32")), bytes(8))
    assert hand.state(5) == "x"
    hand.handle(messages.Synchronize(1))
    (failure,) = hand.failures
    assert failure.operation.startswith("send float32[2]")


def test_a_failed_put_is_not_taken_for_the_next_command() -> None:
    """Failures are kept by number until somebody sees them: the one would hide the other, and lend it its line."""
    hand = ByHand()
    hand.handle(messages.Put(5, TensorMeta((2,), (10**17,), "float32")), bytes(8))
    hand.run("aten::no_such_operation", expect=[A])
    assert len(hand.failures) == 2
    assert len({failure.sequence for failure in hand.failures}) == 2


def test_fetch_answers_missing_and_failed() -> None:
    hand = ByHand()
    assert hand.ask(messages.Fetch, messages.Missing, 77).name == 77
    bad = hand.run("aten::no_such_operation", expect=[A])
    assert hand.ask(messages.Fetch, messages.Failed, bad).failure == hand.failures[0]


def test_hide() -> None:
    hand = ByHand()
    name, other = hand.put(A), hand.put(A)
    hand.handle(messages.Hide(name))
    assert [entry.name for entry in hand.ask(messages.Inventory, messages.Found).entries] == [other]
    assert torch.equal(hand.fetch(name), A)


def test_inventory_tells_everything_but_the_values() -> None:
    hand = ByHand()
    base = hand.put(A)
    view = hand.run(aten.select.int, At(base), 0, 1, expect=[A[1]])
    hand.handle(messages.Annotate(view, ("row", "second"), "a row"))
    hand.run(aten.equal.default, At(base), At(base), expect=None)
    one, other = hand.ask(messages.Inventory, messages.Found).entries
    assert (one.name, one.extent.offset, one.tags, one.description) == (base, 0, (), "")
    assert (other.name, other.extent.offset, other.tags, other.description) == (view, 3, ("row", "second"), "a row")
    assert other.extent.meta.same_as(meta_of(A[1]))


@pytest.mark.parametrize(
    ("tags", "found"),
    [(("a",), [0, 1]), (("b",), [1]), (("a", "b"), [1]), (("c",), []), (("a", "c"), []), ((), [0, 1])],
)
def test_search_gives_names_to_what_has_all_the_tags(tags: tuple[str, ...], found: list[int]) -> None:
    hand = ByHand()
    names = [hand.put(torch.full((2,), float(place))) for place in range(3)]
    hand.handle(messages.Annotate(names[0], ("a",), ""))
    hand.handle(messages.Annotate(names[1], ("a", "b"), "both"))
    entries = hand.ask(messages.Search, messages.Found, tags, 500).entries
    assert [entry.name for entry in entries] == [500 + place for place in range(len(found))]
    assert [hand.fetch(entry.name)[0].item() for entry in entries] == found
    hand.drop(*names)
    assert [hand.fetch(entry.name)[0].item() for entry in entries] == found, "a found name holds the value too"
    assert not hand.ask(messages.Inventory, messages.Found).entries, "and is not listed a second time"


def test_a_search_gives_no_more_names_than_the_client_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptrtensor.worker.catalogue.MAX_RESULTS", 2)
    hand = ByHand()
    names = [hand.put(A) for _ in range(3)]
    for name in names:
        hand.handle(messages.Annotate(name, ("a",), ""))
    entries = hand.ask(messages.Search, messages.Found, ("a",), 500).entries
    assert [entry.name for entry in entries] == [500, 501]
    assert set(hand.store.objects) == {*names, 500, 501}


def test_statistics_count_a_storage_once() -> None:
    hand = ByHand()
    base = hand.put(A)
    hand.run(aten.select.int, At(base), 0, 1, expect=[A[1]])
    hand.run("aten::no_such_operation", expect=[A])
    counters = hand.ask(messages.Statistics, messages.Counters)
    assert (counters.commands, counters.objects, counters.object_bytes, counters.poisoned) == (2, 2, 24, 1)


def test_synchronize_acknowledges_first() -> None:
    hand = ByHand()
    hand.put(A)
    acknowledged, done = hand.handle(messages.Synchronize(9))
    assert acknowledged == messages.Acknowledged(0, []) and done == messages.Done(9)


def test_bye_closes() -> None:
    hand = ByHand()
    assert not hand.session.closed
    acknowledged, done = hand.handle(messages.Bye(9))
    assert isinstance(acknowledged, messages.Acknowledged) and done == messages.Done(9)
    assert hand.session.closed


def test_a_failure_is_reported_with_the_batch_and_once() -> None:
    hand = ByHand()
    bad = hand.define("aten::no_such_operation", expect=[A])
    good = hand.define(aten.neg.default, At(hand.put(A)), expect=[A])
    replies = hand.post([hand.command(good, 50), hand.command(bad, 51), hand.command(bad, 52)])
    (acknowledged,) = replies
    assert isinstance(acknowledged, messages.Acknowledged) and acknowledged.sequence == 3
    assert [failure.sequence for failure in acknowledged.failures] == [1, 2]
    assert hand.handle(messages.Synchronize(1))[0] == messages.Acknowledged(3, [])


# --- batches


def increments(hand: ByHand, count: int) -> tuple[int, list[tuple[Instruction | None, bytes]]]:
    """A tensor of zero, and so many commands that add one to it; the first defines the instruction."""
    target = hand.put(torch.zeros(()))
    defined = hand.define(aten.add_.Tensor, At(target), Field(1))
    first = hand.command(defined, 1000)
    return target, [first] + [(None, hand.command(defined, 1001 + place)[1]) for place in range(count - 1)]


@pytest.mark.parametrize(
    "resent",
    [
        [(0, 5), (0, 5)],
        [(0, 5), (0, 5), (0, 5), (5, 10)],
        [(0, 3), (0, 7), (2, 10)],
        [(0, 10), (3, 6)],
        [(0, 4), (4, 4), (4, 10)],
    ],
    ids=str,
)
def test_a_command_that_comes_again_is_not_run_again(resent: list[tuple[int, int]]) -> None:
    hand = ByHand()
    target, commands = increments(hand, 10)
    definition, _ = commands[0]
    run = 0
    for begin, end in resent:
        piece = [
            (definition if place == 0 else None, command) for place, (_, command) in enumerate(commands[begin:end])
        ]
        replies = hand.post(piece, first=begin)
        run = max(run, end)
        assert replies == [messages.Acknowledged(run, [])]
    assert hand.fetch(target).item() == run


def test_failures_of_a_batch_that_comes_again_are_told_again() -> None:
    """What was said of it may have been lost with what interrupted its sender [P7.2]."""
    hand = ByHand()
    source = hand.put(torch.ones(2))
    commands = [hand.command(hand.define(aten.view.default, At(source), [7]), 1000 + place) for place in range(3)]
    told = hand.post(commands, first=0)
    assert told == hand.post(commands, first=0)
    assert [failure.sequence for failure in hand.failures] == [0, 1, 2] * 2
    assert hand.post(commands[:1], first=3) != told
    assert [failure.sequence for failure in hand.failures] == [0, 1, 2, 0, 1, 2, 3]


def test_a_drop_that_comes_again_is_harmless() -> None:
    hand = ByHand()
    name = hand.put(A)
    hand.drop(name)
    hand.post([(None, DROP_HEADER.pack(DROP, 1) + NUMBER.pack(name))], first=0)
    hand.drop(name, 12345)
    assert hand.state(name) == "-"


def test_a_drop_of_nothing() -> None:
    hand = ByHand()
    hand.drop()
    assert hand.ask(messages.Statistics, messages.Counters).commands == 1


def test_a_skipped_number_ends_the_session() -> None:
    hand = ByHand()
    _, commands = increments(hand, 3)
    with pytest.raises(ProtocolError, match="from command 0 to 1"):
        hand.post(commands, first=1)


def test_a_number_stands_for_its_latest_definition() -> None:
    hand = ByHand()
    a = hand.put(A)
    instruction, fields = hand.define(aten.neg.default, At(a), expect=[A])
    hand.post([hand.command((instruction, fields), 50)])
    other, _ = hand.define(aten.abs.default, At(a), expect=[A])
    redefined = Instruction(instruction.number, *(getattr(other, name) for name in other.__struct_fields__[1:]))
    hand.post([hand.command((redefined, fields), 51)])
    hand.post([(None, hand.command((redefined, fields), 52)[1])])
    assert torch.equal(hand.fetch(50), -A)
    assert torch.equal(hand.fetch(51), A) and torch.equal(hand.fetch(52), A)


GOOD = Instruction(1, "aten::neg", (ObjectSlot(),), {}, False, None)
NEG = struct.pack("<QQQ", 1, 1, 50)

MALFORMED: dict[str, tuple[messages.Batch, bytes]] = {
    "an undefined instruction": (messages.Batch(0, 1, []), NEG),
    "one command announced, none sent": (messages.Batch(0, 1, [GOOD]), b""),
    "one command announced, two sent": (messages.Batch(0, 1, [GOOD]), NEG + NEG),
    "cut within a command": (messages.Batch(0, 1, [GOOD]), NEG[:-1]),
    "cut within a number": (messages.Batch(0, 1, [GOOD]), NEG[:5]),
    "cut within a drop": (messages.Batch(0, 1, []), DROP_HEADER.pack(DROP, 3) + NUMBER.pack(1)),
    "a drop of more than there can be": (messages.Batch(0, 1, []), DROP_HEADER.pack(DROP, 2**64 - 1)),
    "number 0 defined": (messages.Batch(0, 0, [Instruction(0, "aten::neg", (), {}, False, None)]), b""),
    "a negative number defined": (messages.Batch(0, 0, [Instruction(-1, "aten::neg", (), {}, False, None)]), b""),
    "a number too large": (
        messages.Batch(0, 0, [Instruction(MAX_INSTRUCTIONS + 1, "aten::neg", (), {}, False, None)]),
        b"",
    ),
    "a negative size predicted": (
        messages.Batch(0, 0, [Instruction(1, "aten::neg", (), {}, False, (TensorMeta((-1,), (1,), "float32"),))]),
        b"",
    ),
    "an unknown dtype": (
        messages.Batch(0, 0, [Instruction(1, "aten::neg", (NamedConstant("dtype", "x"),), {}, False, None)]),
        b"",
    ),
    "a skipped command": (messages.Batch(1, 1, [GOOD]), NEG),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_batch_ends_the_session(what: str) -> None:
    batch, commands = MALFORMED[what]
    hand = ByHand()
    hand.put(A)
    with pytest.raises(ProtocolError):
        hand.handle(batch, commands)


def test_an_infinite_field_is_only_a_number() -> None:
    hand = ByHand()
    made = hand.run(aten.mul.Tensor, At(hand.put(torch.ones(1))), Field(float("inf")), expect=[torch.ones(1)])
    assert hand.fetch(made).item() == float("inf")


# --- settings [P6]


CHANGED = Settings(default_dtype="float64", deterministic=True, matmul_precision="high", math_attention=False)


def test_settings_hold_while_a_message_is_handled_and_not_after() -> None:
    hand = ByHand()
    before = read_flags()
    hand.handle(messages.Configure(CHANGED))
    assert read_flags() == before
    made = hand.run(aten.full.default, [2], 0.5, device=Deviceless(), expect=[torch.full((2,), 0.5).double()])
    assert hand.state(made) == "o"
    assert read_flags() == before


def test_names_are_forgotten_without_a_change_of_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client in this process sends them while another thread relies on the flags."""
    hand = ByHand()
    hand.put(A)
    hand.handle(messages.Configure(CHANGED))
    changes: list[object] = []
    monkeypatch.setattr("ptrtensor.worker.flags.write_flags", changes.append)
    hand.handle(messages.Batch(0, 2, []), 2 * (DROP_HEADER.pack(DROP, 1) + NUMBER.pack(1)))
    assert not hand.store.objects and changes == []


def test_settings_are_restored_after_an_error() -> None:
    hand = ByHand()
    hand.handle(messages.Configure(CHANGED))
    before = read_flags()
    with pytest.raises(ProtocolError):
        hand.handle(messages.Batch(0, 1, []), NEG)
    assert read_flags() == before


def test_sessions_do_not_share_settings() -> None:
    one, other = ByHand(), ByHand()
    one.handle(messages.Configure(CHANGED))
    for hand, dtype in ((one, torch.float64), (other, torch.float32)):
        name = hand.run(aten.full.default, [2], 0.5, device=Deviceless(), expect=[torch.ones(2, dtype=dtype)])
        assert hand.fetch(name).dtype is dtype


def test_commands_run_as_in_a_fresh_thread_without_autograd() -> None:
    hand = ByHand()
    with torch.enable_grad(), torch.device("meta"):
        made = hand.store.objects[hand.run(aten.neg.default, At(hand.put(A)), expect=[A])]
        assert isinstance(made, Tensor) and made.device.type == "cpu" and not made.requires_grad
        assert torch.is_grad_enabled()
