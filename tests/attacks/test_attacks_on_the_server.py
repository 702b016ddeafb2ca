"""What a trusted and hostile client can do to `ptrtensor serve`: the others are served, and it is written down."""

import contextlib
import logging
import os
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from intruding import MIB, Besieged, Intruder, besieged, no_leaks, resident_bytes
from waiting import eventually
from wire_samples import META, command, drop, frame, header, raw_frame

import ptrtensor as pt
from ptrtensor.owner import session_process, status
from ptrtensor.owner.audit import records
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.sessions import Limits
from ptrtensor.owner.status import ask_status
from ptrtensor.transport.resumable import HEADER as LINK_HEADER
from ptrtensor.transport.resumable import KEPT_BYTES, OFFSET, PING, Kind, end
from ptrtensor.wire.control import DENIALS_TOLD_SINGLY
from ptrtensor.wire.instruction import Argument, Constant, Instruction, Items, ObjectSlot
from ptrtensor.wire.limits import MAX_MESSAGE_BYTES
from ptrtensor.wire.messages import (
    Annotate,
    AskRelease,
    Batch,
    CollectRelease,
    Counters,
    Denied,
    Describe,
    Done,
    Failed,
    Fetch,
    Found,
    Hide,
    Inventory,
    ListReleases,
    Message,
    Missing,
    Put,
    Refused,
    Releases,
    Seal,
    Search,
    Statistics,
    Synchronize,
    Unseal,
    Value,
)
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.owner import NO_SUCH_OBJECT, TOO_MANY_OBJECTS, TOO_MUCH_MEMORY

pytestmark = pytest.mark.timeout(300)

OBJECTS = 2000
MEMORY = 400 * MIB
POLICY = """
[[rule]]
clients = ["alice"]
read = "ask"
"""


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    with besieged(
        tmp_path_factory.mktemp("inside"),
        limits=Limits(memory=MEMORY, objects=OBJECTS),
        patience=Patience(lease=1, keep_alive=60, handshake=5),
        policy=POLICY,
    ) as opened:
        yield opened
        opened.check_it_lets_in()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "RATE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def tried() -> Counter[str]:
    """What was refused in the shared session, and how often."""
    return Counter()


@pytest.fixture(scope="module")
def shared(hospital: Besieged, tried: Counter[str]) -> Iterator[Intruder]:
    """For attacks that must not end the session. In the end each of them is in the audit log: those of a kind are
    counted there, and have not a line each.
    """
    with contextlib.closing(Intruder(hospital)) as found:
        found.greet()
        number = hospital.session_of("alice").number
        yield found
        hospital.news()
        found.socket.frames(end(""))
        hospital.wait_for("session ended", session=number)
    written: Counter[str] = Counter()
    for record in records(hospital.audit.path):
        if record["event"] == "denied" and record["session"] == number:
            written[str(record["what"])] += int(str(record["count"]))
    assert {what: written[what] for what in tried} == tried


@pytest.fixture
def inside(hospital: Besieged, shared: Intruder) -> Iterator[Intruder]:
    """After the attack the session and the others are as they were."""
    hospital.check_it_serves()
    hospital.news()
    process = hospital.session_of("alice").process.number
    before = resident_bytes(), resident_bytes(process)
    with no_leaks():
        yield shared
    names = range(1, 100)
    shared.send_commands(drop(*names))
    assert shared.answer(Synchronize(99)) == Done(99)
    hospital.check_it_serves()
    assert resident_bytes() - before[0] < 64 * MIB
    assert resident_bytes(process) - before[1] < 64 * MIB


def instruction(
    op: str, *positional: Argument, expected: tuple[TensorMeta | None, ...] | None = (None,)
) -> Instruction:
    return Instruction(1, op, positional, {}, op == "aten::randn", expected)


def numbers(*values: int) -> Items:
    return Items(tuple(Constant(value) for value in values))


SHAPES: list[tuple[str, str, tuple[Argument, ...]]] = [
    # Of more than there is:
    ("empty", "aten::empty.memory_format", (numbers(10**12),)),
    ("zeros", "aten::zeros", (numbers(10**12),)),
    ("zeros within the machine's memory", "aten::zeros", (numbers(10**9),)),
    ("overflow", "aten::zeros", (numbers(2**62, 2**62),)),
    ("many sizes", "aten::zeros", (numbers(*[10**6] * 20),)),
    ("full", "aten::full", (numbers(2**40), Constant(1.0))),
    ("arange", "aten::arange", (Constant(10**12),)),
    ("linspace", "aten::linspace", (Constant(0.0), Constant(1.0), Constant(10**12))),
    ("eye", "aten::eye", (Constant(10**6),)),
    ("randn", "aten::randn", (numbers(10**12),)),
    ("repeat", "aten::repeat", (ObjectSlot(), numbers(10**6, 10**6))),
    ("expand and copy", "aten::expand_copy", (ObjectSlot(), numbers(10**12, 6))),
    ("resize", "aten::resize_", (ObjectSlot(), numbers(10**12))),
    ("pad", "aten::constant_pad_nd", (ObjectSlot(), numbers(0, 10**12))),
    ("tril_indices", "aten::tril_indices", (Constant(10**7), Constant(10**7))),
    # Of none:
    ("negative", "aten::zeros", (numbers(-1),)),
    ("as_strided beyond the end", "aten::as_strided", (ObjectSlot(), numbers(10**12), numbers(1))),
]


@pytest.mark.parametrize(("op", "positional"), [case[1:] for case in SHAPES], ids=[case[0] for case in SHAPES])
def test_more_memory_than_there_is(
    inside: Intruder, tried: Counter[str], op: str, positional: tuple[Argument, ...]
) -> None:
    """That operation fails, and nothing else."""
    inside.say(Put(10, TensorMeta((6,), (1,), "float32")), bytes(4 * 6))
    objects = [10] * sum(isinstance(argument, ObjectSlot) for argument in positional)
    seeds = [7] if op == "aten::randn" else []
    inside.run(instruction(op, *positional), command(1, *objects, *seeds, 20))
    answer = inside.answer(Fetch(1, 10 if op == "aten::resize_" else 20))
    assert isinstance(answer, Failed)
    assert "UnsupportedOpError" not in answer.failure.error, "it was to be tried"
    tried[TOO_MUCH_MEMORY] += (op, positional) not in [case[1:] for case in SHAPES[-2:]]


@pytest.mark.parametrize("op", ["aten::expand", "aten::as_strided"])
def test_a_value_that_is_larger_than_its_memory(inside: Intruder, tried: Counter[str], op: str) -> None:
    """A view without memory of its own; it is the copies of it that fail, and to fetch it."""
    inside.say(Put(10, TensorMeta((1,), (1,), "float32")), bytes(4))
    strides = (numbers(0),) if op == "aten::as_strided" else ()
    inside.run(instruction(op, ObjectSlot(), numbers(10**12), *strides), command(1, 10, 20))
    for copying in ("aten::clone", "aten::neg", "aten::add.Tensor", "aten::cumsum"):
        slots: tuple[Argument, ...] = (ObjectSlot(),)
        if copying == "aten::add.Tensor":
            slots = (ObjectSlot(), ObjectSlot())
        elif copying == "aten::cumsum":
            slots = (ObjectSlot(), Constant(0))
        names = [20] * sum(isinstance(slot, ObjectSlot) for slot in slots)
        inside.run(instruction(copying, *slots), command(1, *names, 30))
        assert "allocate" in inside.failure(Fetch(1, 30))
    assert "allocate" in inside.failure(Fetch(2, 20))
    tried[TOO_MUCH_MEMORY] += 5


def test_a_tensor_that_is_larger_than_its_memory_is_passed_over(inside: Intruder, tried: Counter[str]) -> None:
    """Its bytes are, as they come [P3.2]."""
    size = 500 * MIB
    inside.raw(raw_frame(frame(Put(10, TensorMeta((size,), (1,), "uint8")))[16:], payload_bytes=size))
    zeros = bytes(20 * MIB)  # the same each time: the link keeps what the server has not acknowledged
    for _ in range(size // len(zeros)):
        inside.raw(zeros)
    assert isinstance(inside.answer(Fetch(1, 10)), Failed)
    tried[TOO_MUCH_MEMORY] += 1


# --- very many, and very long


def counters(inside: Intruder) -> Counters:
    found = inside.answer(Statistics(1))
    assert isinstance(found, Counters)
    return found


def test_billions_of_tiny_objects(inside: Intruder, tried: Counter[str]) -> None:
    """Past the quota each fails, and one who does not stop is let go before it fills the memory."""
    before = counters(inside).objects
    for begin in range(10**6, 10**6 + 4000, 1000):
        inside.say(
            Batch(inside.sequence, 1000, [instruction("aten::zeros", numbers())]),
            b"".join(command(1, begin + number) for number in range(1000)),
        )
        inside.sequence += 1000
    for number in range(100):
        inside.say(Put(2 * 10**6 + number, META), bytes(24))
    found = counters(inside)
    assert before < found.objects <= OBJECTS + 1
    assert "QuotaExceededError" in inside.failure(Fetch(2, 10**6 + 3999))
    inside.send_commands(drop(*range(10**6, 10**6 + 4000), *range(2 * 10**6, 2 * 10**6 + 100)))
    assert counters(inside).objects == before
    tried[TOO_MANY_OBJECTS] += 4100 - (found.objects - before)


def test_searches_count_too(inside: Intruder, tried: Counter[str]) -> None:
    for name in range(1, 60):
        inside.say(Put(name, META), bytes(24))
        inside.say(Annotate(name, ("#mine",), ""))
    answers = [inside.answer(Search(number, ("#mine",), 10**7 + 60 * number)) for number in range(100)]
    assert isinstance(answers[0], Found) and isinstance(answers[-1], Failed)
    assert counters(inside).objects <= OBJECTS + 60
    inside.send_commands(drop(*range(10**7, 10**7 + 6000)))
    tried[TOO_MANY_OBJECTS] += sum(isinstance(answer, Failed) for answer in answers)


def test_results_that_nobody_asks_for_count_too(inside: Intruder, tried: Counter[str]) -> None:
    """What an operation without prediction wrote to is remembered until it is asked for, under a name of its own."""
    inside.say(Put(10, META), bytes(24))
    adding = instruction("aten::neg_", ObjectSlot(), expected=None)
    begin = 10**8
    for _ in range(6):
        inside.say(
            Batch(inside.sequence, 1000, [adding]),
            b"".join(command(1, 10, begin + number) for number in range(1000)),
        )
        inside.sequence += 1000
        begin += 1000
    assert "QuotaExceededError" in inside.failure(Describe(3, begin - 1))
    inside.send_commands(drop(*range(10**8, begin)))
    tried[TOO_MANY_OBJECTS] += 6000 - OBJECTS


LONG = "x" * 5_000_000


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (Annotate(10, (LONG,), ""), b""),
        (Annotate(10, ("#x",) * 1_000_000, ""), b""),
        (Annotate(10, (), LONG), b""),
        (Search(1, (LONG,), 1000), b""),
        (AskRelease(1, 10, LONG), b""),
        (AskRelease(1, 60, LONG), b""),
        (CollectRelease(1, LONG), b""),
        (CollectRelease(1, "\x1b[2J'; DROP TABLE requests; --\0"), b""),
        (Seal(1, 10, LONG.encode(), 24), b""),
        (Unseal(1, 70), bytes(100_000)),
        (Batch(0, 0, [instruction("aten::" + LONG)]), b""),
        (Batch(0, 0, [instruction("aten::neg", Constant(LONG))]), b""),
        (Batch(0, 0, [instruction("aten::zeros", numbers(*range(300_000)))]), b""),
        (Hide(2**63), b""),
    ],
    ids=[
        "tag",
        "tags",
        "description",
        "searched",
        "reason for nothing",
        "reason",
        "request",
        "request of escapes",
        "letter",
        "box",
        "operation",
        "constant",
        "constants",
        "name",
    ],
)
def test_long_texts(inside: Intruder, tried: Counter[str], message: Message, payload: bytes) -> None:
    """Kept, cut or refused; what they ask for is refused as if they were short."""
    inside.say(Put(10, META), bytes(24))
    inside.answer(Search(5, ("#patients",), 60))
    inside.say(message, payload)
    heard = inside.answer(Synchronize(7))
    while heard != Done(7):
        assert not isinstance(heard, Refused), heard
        heard = inside.hear()  # type: ignore[assignment]
    match message:
        case CollectRelease():
            tried["what was asked for"] += 1
        case Batch(definitions=[Instruction(op=op)]) if op.endswith(LONG):
            tried["to run what torch does not have"] += 1


def test_an_answer_that_is_too_long_costs_no_session(inside: Intruder) -> None:
    for name in (10, 11, 12):
        inside.say(Put(name, META), bytes(24))
        inside.say(Annotate(name, ("#long",), "x" * 6_000_000))
    assert "bytes" in inside.failure(Inventory(1))
    assert "bytes" in inside.failure(Search(2, ("#long",), 50))


# --- what is somebody else's


def test_files_of_the_server(inside: Intruder, tried: Counter[str]) -> None:
    reading = instruction("aten::from_file", Constant("/etc/passwd"), Constant(False), Constant(6))
    inside.run(reading, command(1, 20))
    assert "reaches beyond tensors, to the worker's files" in inside.failure(Fetch(1, 20))
    tried["to run aten::from_file"] += 1


@pytest.mark.parametrize("name", [2**40, 2**63, 2**64 - 1])
def test_forged_names(inside: Intruder, tried: Counter[str], name: int) -> None:
    inside.run(instruction("aten::neg", ObjectSlot()), command(1, name, 20))
    assert "ObjectNotFoundError" in inside.failure(Fetch(1, 20))
    assert inside.answer(Fetch(2, name)) == Missing(2, name)
    assert inside.answer(Describe(3, name)) == Missing(3, name)
    assert isinstance(inside.answer(AskRelease(4, name, "for science")), Denied)
    tried[NO_SUCH_OBJECT] += 3


def test_what_was_taken_is_not_taken_again(inside: Intruder, hospital: Besieged) -> None:
    """Batches that come again, overlap, or are all of them at once: as after an interruption [P7.2], so it needs no
    line of the audit log.
    """
    inside.say(Put(10, META), struct.pack("<6f", *[1.0] * 6))
    doubling = Instruction(1, "aten::add_.Tensor", (ObjectSlot(), ObjectSlot()), {}, False, ())
    begin = inside.sequence
    for count in (1, 1, 3, 2, 3):
        inside.say(Batch(begin, count, [doubling]), command(1, 10, 10, 20) * count)
    inside.sequence = begin + 3
    value = inside.answer(Fetch(1, 10))
    assert isinstance(value, Value)
    assert inside.payload == struct.pack("<6f", *[8.0] * 6)
    assert hospital.news() == []


def test_requests_are_answered_each_under_its_number(inside: Intruder, tried: Counter[str]) -> None:
    for number in (5, 5, 0, -(2**63), 2**64 - 1, 5):
        assert inside.answer(Fetch(number, 2**40)) == Missing(number, 2**40)
    tried[NO_SUCH_OBJECT] += 6


def test_sessions_and_clients_share_no_names(hospital: Besieged, inside: Intruder) -> None:
    inside.say(Put(10, META), bytes(24))
    inside.say(Annotate(10, ("#secret",), ""))
    assert inside.answer(Synchronize(1)) == Done(1)
    bob = hospital._honest
    assert bob is not None and bob.search("#secret") == []


@pytest.mark.parametrize("name", [2**63 + 5, 2**64 - 10, 60])
def test_private_names_that_are_too_large_for_the_state(inside: Intruder, name: int) -> None:
    found = inside.answer(Search(1, ("#patients",), name))
    assert isinstance(found, Found) and len(found.entries) == 1
    assert isinstance(inside.answer(Fetch(2, name)), Denied)
    assert isinstance(inside.answer(AskRelease(3, name, "x\x1b]0;\u202e")), Denied | Releases)
    assert isinstance(inside.answer(ListReleases(4)), Releases)
    inside.send_commands(drop(name))


def test_what_is_denied_again_and_again_does_not_fill_the_log(
    inside: Intruder, hospital: Besieged, tried: Counter[str]
) -> None:
    """Nor by turns: past the first thousand."""
    inside.answer(Search(1, ("#patients",), 60))
    inside.run(instruction("aten::neg", ObjectSlot(), expected=None), command(1, 60, 61))
    hospital.news()
    tried["what was asked for"] += DENIALS_TOLD_SINGLY
    for _ in range(DENIALS_TOLD_SINGLY):
        for message in (Fetch(1, 60), Describe(2, 61), CollectRelease(3, "nothing")):
            assert isinstance(inside.answer(message), Denied)
    time.sleep(0.2)
    written = [record for record in hospital.news() if record["event"] == "denied"]
    assert 0 < len(written) <= DENIALS_TOLD_SINGLY + 30


def test_an_attack_is_written_down_at_once(hospital: Besieged) -> None:
    """The first of its kind, with what it was about."""
    with contextlib.closing(Intruder(hospital)) as intruder:
        intruder.greet()
        intruder.run(instruction("aten::from_file", Constant("/etc/passwd")), command(1, 20))
        hospital.wait_for("denied", client="alice", what="to run aten::from_file", operation="aten::from_file", count=1)
        intruder.run(instruction("aten::" + LONG), command(1, 21))
        line = hospital.wait_for("denied", what="to run what torch does not have")
        assert str(line["operation"]).startswith("aten::xxx") and len(str(line)) < 500
        bomb = TensorMeta((10**12,), (1,), "float32")
        zeros = instruction("aten::zeros", numbers(10**12), expected=(bomb,))
        intruder.run(zeros, command(1, 22))
        line = hospital.wait_for("denied", what=TOO_MUCH_MEMORY, object=22, operation="aten::zeros")
        assert (line["tensor"], line["bytes"]) == ("float32[1000000000000]", 4 * 10**12)
        intruder.run(instruction("aten::neg", ObjectSlot()), command(1, 2**63, 23))
        hospital.wait_for("denied", what=NO_SUCH_OBJECT, object=2**63, operation="aten::neg")
        for name in range(1000, 1000 + OBJECTS):
            intruder.say(Put(name, META), bytes(24))
        hospital.wait_for("denied", what=TOO_MANY_OBJECTS, tensor="float32[2, 3]", bytes=24)
        intruder.socket.frames(end(""))
        hospital.wait_for("session ended", client="alice", reason="its client left")


def test_what_torch_prints_is_a_few_lines_of_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """However often a client has it warn: here of each result that does not fit."""
    adding = Instruction(1, "aten::add.out", (ObjectSlot(), ObjectSlot()), {"out": ObjectSlot()}, False, None)
    with besieged(tmp_path, ahead=0) as hospital, caplog.at_level(logging.WARNING, "ptrtensor.serve"):
        with contextlib.closing(Intruder(hospital)) as intruder:
            intruder.greet()
            intruder.say(Put(1, META), bytes(24))
            for _ in range(60):
                intruder.say(Put(2, TensorMeta((1,), (1,), "float32")), bytes(4))
                intruder.run(adding, command(1, 1, 1, 2, 3))
            assert intruder.answer(Synchronize(1)) == Done(1)
            number = hospital.session_of("alice").number
            intruder.socket.frames(end(""))
            hospital.wait_for("session ended", client="alice")
    assert capfd.readouterr().err == ""
    said = [record.__dict__ for record in caplog.records if record.message.startswith("a session's process printed")]
    assert 1 < len(said) <= 21 and all(line["session"] == number for line in said)
    assert "was resized" in said[0]["text"] and said[-1]["lines"] > 0


# --- what ends the session


def received(count: int) -> bytes:
    return LINK_HEADER.pack(Kind.RECEIVED, OFFSET.size) + OFFSET.pack(count)


def data(chunk: bytes) -> bytes:
    return LINK_HEADER.pack(Kind.DATA, len(chunk)) + chunk


ENDING: list[tuple[str, bytes, str]] = [
    ("unknown frame", LINK_HEADER.pack(9, 3) + b"abc", "unknown kind"),
    ("received what was not sent", received(10**9), "received 1000000000 bytes"),
    ("long payload", data(header(10, 2**64 - 1)), "18446744073709551615 bytes"),
    ("long message", data(header(MAX_MESSAGE_BYTES + 1, 0)), f"{MAX_MESSAGE_BYTES + 1} bytes"),
    ("a list of 4294967295", data(raw_frame(frame(Batch(0, 0, []))[16:-1] + b"\xdd\xff\xff\xff\xff")), "none of"),
    ("a drop of 2**61", data(frame(Batch(0, 1, []), drop(1, count=2**61))), "within a command"),
    ("deeply nested", data(raw_frame(b"\x84" + frame(Fetch(1, 2))[17:] + b"\xa1x" + b"\x91" * 50_000)), "none of"),
    ("no protocol", data(b"GET / HTTP/1.1\r\n\r\n"), "wrong first bytes"),
    ("nobody's operation", data(frame(Batch(0, 0, [Instruction(1, "os::system", (), {}, False, None)]))), "os::system"),
    ("a forged end", end("the worker was stopped by its owner\x1b[2J"), "its client said"),
    ("half a frame", data(frame(Put(1, META), bytes(24)))[:-5], "did not come back in time"),
]


@pytest.mark.parametrize(("frames", "reason"), [case[1:] for case in ENDING], ids=[case[0] for case in ENDING])
def test_what_ends_a_session(hospital: Besieged, frames: bytes, reason: str) -> None:
    hospital.check_it_serves()
    hospital.news()
    before = hospital.server.sessions
    with no_leaks(), contextlib.closing(Intruder(hospital)) as intruder:
        intruder.greet()
        (session,) = [session for session in hospital.server.sessions if session not in before]
        for _ in range(50):
            intruder.socket.frames(PING * 100)
        intruder.socket.frames(frames)
        if reason.startswith("did not"):
            intruder.close()
        elif reason.startswith("its client"):
            assert intruder.hear() is None
        else:
            message = intruder.hear()
            heard = message.reason if isinstance(message, Refused) else intruder.socket.ended()
            assert reason in heard
        ended = hospital.wait_for("session ended", session=session.number)
        assert reason in str(ended["reason"])
    hospital.check_it_serves()


# --- who takes no part


def test_a_client_that_never_reads(tmp_path: Path) -> None:
    """The server keeps so much for it and no more, and serves the others; nothing of it is left when it is gone."""
    patience = Patience(lease=1, keep_alive=0.5, handshake=5)
    with contextlib.ExitStack() as stack:
        hospital = stack.enter_context(besieged(tmp_path, patience=patience, ahead=0))
        hospital.check_it_serves()
        stack.enter_context(no_leaks())
        mute = stack.enter_context(contextlib.closing(Intruder(hospital)))
        mute.greet()
        size = 8 * MIB
        mute.say(Put(1, TensorMeta((size,), (1,), "uint8")), bytes(size))
        assert mute.answer(Synchronize(1)) == Done(1)
        process = hospital.session_of("alice").process.number
        before = resident_bytes(), resident_bytes(process)
        mute.socket.connection.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            for begin in range(0, 10**6, 100):
                mute.raw(b"".join(frame(Fetch(number, 1)) for number in range(begin, begin + 100)))
        hospital.check_it_serves()
        assert resident_bytes() - before[0] < KEPT_BYTES + 32 * MIB
        assert resident_bytes(process) - before[1] < 64 * MIB
        time.sleep(2)  # several times as long as a sign of life may take
        hospital.check_it_serves()
        mute.close()
        assert hospital.wait_for("session ended", client="alice")["reason"] == "its client did not come back in time"
        hospital.check_it_serves()


def test_sessions_that_are_stopped_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system's own signals. The server says that one gives no answer, goes on, and takes it along at its end."""
    monkeypatch.setattr(session_process, "REPORT_SECONDS", 0.5)
    monkeypatch.setattr(session_process, "END_SECONDS", 2.0)
    patience = Patience(lease=2, keep_alive=5, handshake=5)
    with contextlib.ExitStack() as stack:
        hospital = stack.enter_context(besieged(tmp_path, patience=patience, ahead=0))
        killed = stack.enter_context(contextlib.closing(Intruder(hospital)))
        killed.greet()
        os.kill(hospital.session_of("alice").process.number, signal.SIGKILL)
        assert "ended by itself" in killed.socket.ended()
        assert "killed by signal 9" in str(hospital.wait_for("session ended", client="alice")["reason"])
        with pytest.MonkeyPatch.context() as patched:  # before it is given its session
            take = hospital.server._pool.take

            def take_dead() -> object:
                process = take()
                os.kill(process.number, signal.SIGKILL)
                return process

            patched.setattr(hospital.server._pool, "take", take_dead)
            with pytest.raises(pt.WorkerLostError, match="did not start"):
                hospital.connect()
        assert "did not start" in str(hospital.wait_for("session refused", client="alice")["reason"])
        stopped = stack.enter_context(contextlib.closing(Intruder(hospital)))
        stopped.greet()
        session = hospital.session_of("alice")
        os.kill(session.process.number, signal.SIGSTOP)
        stopped.say(Synchronize(1))
        hospital.check_it_serves()
        found = ask_status("127.0.0.1", hospital.port, hospital.folder / "bob", 30)
        assert {one.client: one.answers for one in found.sessions} == {"alice": False, "carol": True}
        hospital.close()
        hospital.server.stop("maintenance")
        assert session.process.has_ended
        assert "maintenance" in stopped.socket.ended()
        assert eventually(lambda: not hospital.server.sessions)
        assert [record["event"] for record in hospital.news()][-1] in ("server stopped", "session ended")
