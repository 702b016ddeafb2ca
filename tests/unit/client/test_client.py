"""The client with a transport whose worker the test plays: when it sends, what it waits for, what it raises."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from client_transports import NEVER, WAIT_SECONDS, ScriptedTransport
from collecting import collect
from waiting import eventually

from ptrtensor.client import client as client_module
from ptrtensor.client import outbox as outbox_module
from ptrtensor.client.callsite import CallSite
from ptrtensor.client.client import DROPS_HERE, FLUSH_HERE, FLUSH_STREAMING, FLUSH_WAITING, SOON_AFTER, Client
from ptrtensor.client.reference import Reference
from ptrtensor.errors import (
    ObjectNotFoundError,
    ProtocolError,
    PtrTensorError,
    RemoteOpError,
    VersionMismatchError,
    WorkerLostError,
)
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.connection import Buffer
from ptrtensor.wire.instruction import DROP, DROP_HEADER, NUMBER, Instruction, ObjectSlot, layout
from ptrtensor.wire.limits import MAX_FAILURES, PROTOCOL_VERSION
from ptrtensor.wire.messages import ClientMessage, Failure, WorkerMessage


def instruction(number: int) -> Instruction:
    """Equal to others of that number, and another object, as the entries of a cache are."""
    return Instruction(number, "aten::neg", (ObjectSlot(),), {}, False, ())


NEG = instruction(1)
HERE = CallSite(instruction.__code__, instruction.__code__.co_firstlineno)


def command(mark: int, of: Instruction = NEG) -> bytes:
    return layout(of).pack(of.number, mark, 0)


def marks(payload: bytes) -> list[int]:
    """Which commands a batch holds, by the object that each is called with; a drop is minus its names."""
    found, offset = [], 0
    while offset < len(payload):
        (number,) = NUMBER.unpack_from(payload, offset)
        if number == DROP:
            _, count = DROP_HEADER.unpack_from(payload, offset)
            offset += DROP_HEADER.size
            found += [-name for (name,) in NUMBER.iter_unpack(payload[offset : offset + 8 * count])]
            offset += 8 * count
        else:
            found.append(NUMBER.unpack_from(payload, offset + 8)[0])
            offset += layout(NEG).size
    return found


def failure(sequence: int, error: str = "RuntimeError: no") -> Failure:
    return Failure(sequence, "aten::neg(float32[2])", error, f"Traceback of {sequence}\n")


@contextlib.contextmanager
def client_of(transport: ScriptedTransport, idle_seconds: float = NEVER) -> Iterator[Client]:
    client = Client(transport, "bob", synchronous=False, idle_seconds=idle_seconds)
    if idle_seconds == NEVER:
        client._flusher.stop()
    try:
        yield client
    finally:
        transport.closed = True
        with contextlib.suppress(PtrTensorError):
            client.close()


@pytest.fixture
def transport() -> ScriptedTransport:
    return ScriptedTransport(acknowledges=True)


@pytest.fixture
def client(transport: ScriptedTransport) -> Iterator[Client]:
    with client_of(transport) as client:
        yield client


def post(client: Client, count: int) -> None:
    for _ in range(count):
        client.post(NEG, command(1), HERE)


# --- when a batch goes out


def test_nothing_goes_out_below_the_threshold(client: Client, transport: ScriptedTransport) -> None:
    post(client, FLUSH_STREAMING - 1)
    assert transport.sent == []


@pytest.mark.parametrize("acknowledges", [True, False])
def test_a_stream_goes_out_in_large_batches(client: Client, transport: ScriptedTransport, acknowledges: bool) -> None:
    """Whether the worker is idle or not: to ask, and to send less at a time, costs the caller more."""
    transport.acknowledges = acknowledges
    post(client, 3 * FLUSH_STREAMING)
    assert transport.sizes == [FLUSH_STREAMING] * 3
    assert [batch.first for batch in transport.batches] == [0, FLUSH_STREAMING, 2 * FLUSH_STREAMING]


def test_what_was_said_is_taken_in_with_each_batch(client: Client, transport: ScriptedTransport) -> None:
    post(client, 10 * FLUSH_STREAMING)
    assert client.in_flight == 0 and not client.failures._sites


def test_batches_are_small_after_a_wait(client: Client, transport: ScriptedTransport) -> None:
    client.synchronize()
    post(client, SOON_AFTER + 2 * FLUSH_WAITING)
    small = SOON_AFTER // FLUSH_WAITING + 1
    assert transport.sizes == [FLUSH_WAITING] * small
    post(client, FLUSH_STREAMING)
    assert transport.sizes[small:] == [FLUSH_STREAMING]


def test_what_a_worker_in_this_process_says_is_taken_in(client: Client, transport: ScriptedTransport) -> None:
    """Else the lines of all commands would be kept until somebody waits."""
    transport.computes_on_sender = True
    post(client, 10 * FLUSH_HERE)
    assert transport.sizes == [FLUSH_HERE] * 10
    assert not client.failures._sites


def test_what_died_is_forgotten_within_a_large_batch(client: Client, transport: ScriptedTransport) -> None:
    """Else the temporaries of so many commands would be held at once."""
    transport.computes_on_sender = True
    for name in range(1, FLUSH_HERE // 2):
        Reference(client, name)
        client.post(NEG, command(name), HERE)
    client.flush()
    (payload,) = transport.payloads
    held = most = 0
    for mark in marks(payload):
        held += 1 if mark > 0 else -1
        most = max(most, held)
    assert held == 0 and most == DROPS_HERE


def test_flush_sends_once(client: Client, transport: ScriptedTransport) -> None:
    client.flush()
    post(client, 3)
    client.flush()
    client.flush()
    assert transport.sizes == [3]


def test_what_is_too_much_for_a_batch_goes_out_in_several(
    client: Client, transport: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_BATCH_BYTES", 4 * len(command(1)))
    post(client, 10)
    client.send(messages.Hide(1))
    assert [type(message).__name__ for message in transport.sent] == ["Batch"] * 3 + ["Hide"]
    assert transport.sizes == [4, 4, 2] and [batch.first for batch in transport.batches] == [0, 4, 8]


def test_a_flush_ends_though_another_thread_goes_on_posting(
    client: Client, transport: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = transport.send

    def post_meanwhile(message: ClientMessage, payload: Buffer | None = None, *, more: bool = False) -> None:
        client._outbox.join(NEG, command(2), HERE)
        send(message, payload, more=more)

    monkeypatch.setattr(transport, "send", post_meanwhile)
    post(client, 3)
    client.flush()
    assert transport.sizes == [3] and len(client._outbox) == 1


def test_a_message_goes_behind_what_was_posted(client: Client, transport: ScriptedTransport) -> None:
    post(client, 2)
    client.send(messages.Hide(1))
    post(client, 1)
    client.synchronize()
    assert [type(message).__name__ for message in transport.sent] == ["Batch", "Hide", "Batch", "Synchronize"]


def test_the_flusher_sends_the_end_of_a_batch(transport: ScriptedTransport) -> None:
    with client_of(transport, idle_seconds=0.002) as client:
        post(client, 3)
        assert eventually(lambda: transport.sizes == [3])
        post(client, 2)
        assert eventually(lambda: transport.sizes == [3, 2])


def test_the_flusher_leaves_to_the_callers_threads_what_would_be_computed_on_its_own(
    transport: ScriptedTransport,
) -> None:
    transport.computes_on_sender = True
    with client_of(transport, idle_seconds=0.002) as client:
        client.drop(1)
        assert eventually(lambda: transport.sizes == [1]), "names are forgotten"
        post(client, 1)
        client.drop(2)
        time.sleep(0.1)
        assert transport.sizes == [1]
        client.flush()
        assert transport.sizes == [1, 2]


def test_where_sending_computes_a_thread_waits_its_turn_instead_of_leaving_its_commands_to_another(
    client: Client, transport: ScriptedTransport
) -> None:
    transport.computes_on_sender = True
    with client._writing:
        thread = threading.Thread(target=post, args=(client, 100), daemon=True)
        thread.start()
        time.sleep(0.1)
        left = len(client._outbox)
    thread.join(timeout=20)
    assert not thread.is_alive() and left <= DROPS_HERE


def test_the_flusher_takes_in_what_arrives(transport: ScriptedTransport) -> None:
    with client_of(transport, idle_seconds=0.002) as client:
        post(client, 1)
        assert eventually(lambda: bool(transport.sizes))
        assert eventually(lambda: not transport.events)
        assert client._inbox.acknowledged == 1


# --- definitions


def test_an_instruction_is_defined_once(client: Client, transport: ScriptedTransport) -> None:
    post(client, 2)
    client.flush()
    post(client, 2)
    client.flush()
    assert [batch.definitions for batch in transport.batches] == [[NEG], []]


def test_another_meaning_of_a_number_begins_another_batch(client: Client, transport: ScriptedTransport) -> None:
    other = instruction(1)
    client.post(NEG, command(1), HERE)
    client.post(other, command(2), HERE)
    client.post(other, command(3), HERE)
    client.post(NEG, command(4), HERE)
    client.flush()
    assert [marks(payload) for payload in transport.payloads] == [[1], [2, 3], [4]]
    definitions = [batch.definitions for batch in transport.batches]
    assert [[id(defined) for defined in each] for each in definitions] == [[id(NEG)], [id(other)], [id(NEG)]]


def test_another_meaning_needs_no_batch_of_its_own_at_the_beginning(
    client: Client, transport: ScriptedTransport
) -> None:
    post(client, 1)
    client.flush()
    post(client, 0)
    other, third = instruction(1), instruction(2)
    client.post(other, command(2), HERE)
    client.post(third, command(3, third), HERE)
    client.flush()
    assert transport.sizes == [1, 2]
    assert [len(batch.definitions) for batch in transport.batches] == [1, 2]


# --- names and drops


def test_names_are_never_given_twice(client: Client) -> None:
    taken: list[int] = []
    for names in (1, 3, 0, 65536, 1):
        first = client.reserve(names)
        taken += range(first, first + names)
    assert len(set(taken)) == len(taken) and 0 not in taken


def test_a_dead_name_leaves_behind_the_commands_that_used_it(client: Client, transport: ScriptedTransport) -> None:
    reference = Reference(client, 5)
    client.post(NEG, command(5), HERE)
    del reference
    client.post(NEG, command(6), HERE)
    client.flush()
    assert [marks(payload) for payload in transport.payloads] == [[5, 6, -5]]


def test_a_destructor_sends_nothing(client: Client, transport: ScriptedTransport) -> None:
    cycle: list[object] = [Reference(client, name) for name in range(1, 1001)]
    cycle.append(cycle)
    del cycle
    collect()
    assert transport.sent == [] and len(client.drops) == 1000
    client.flush()
    assert sorted(marks(transport.payloads[0])) == [-name for name in range(1000, 0, -1)]
    assert transport.sizes == [1] and not client.drops


@pytest.mark.parametrize("before", ["a message", "a command"])
def test_drops_leave_after_a_short_idle_time(transport: ScriptedTransport, before: str) -> None:
    with client_of(transport, idle_seconds=0.002) as client:
        if before == "a message":
            client.send(messages.Hide(1))
        else:
            post(client, 1)
            assert eventually(lambda: bool(transport.sizes))
        reference = Reference(client, 5)
        del reference
        assert eventually(lambda: marks(transport.payloads[-1] if transport.payloads else b"") == [-5]), (
            "a program that only sends and drops tensors fills the worker's memory"
        )


# --- requests


def answered(client: Client, transport: ScriptedTransport, reply: WorkerMessage) -> tuple[messages.Value, memoryview]:
    """A Fetch with this answer."""

    def fetch(number: int) -> messages.Fetch:
        transport.answer(type(reply)(**{**{f: getattr(reply, f) for f in reply.__struct_fields__}, "request": number}))
        return messages.Fetch(number, 7)

    return client.request(fetch, messages.Value)


def test_the_answer_comes_back(client: Client, transport: ScriptedTransport) -> None:
    waits = client.waits.count
    value, _ = answered(client, transport, messages.Value(0, scalar=3))
    assert value.scalar == 3
    assert client.waits.count == waits + 1


def test_a_missing_object(client: Client, transport: ScriptedTransport) -> None:
    with pytest.raises(ObjectNotFoundError, match="bob holds no object 7"):
        answered(client, transport, messages.Missing(0, 7))


def test_an_answer_of_the_wrong_kind(client: Client, transport: ScriptedTransport) -> None:
    with pytest.raises(ProtocolError, match="Counters, not Value"):
        answered(client, transport, messages.Counters(0, 0, 0, 0, 0, 0))


def test_answers_to_nobody_are_dropped(client: Client, transport: ScriptedTransport) -> None:
    """An interrupted request's answer may come later; it is not kept."""
    transport.answer(messages.Value(999, scalar=3), bytes(100))
    client.synchronize()
    assert not client._inbox._replies


# --- failures (D10)


def test_synchronize_raises_what_nobody_saw_and_once(client: Client, transport: ScriptedTransport) -> None:
    transport.acknowledges = False
    post(client, 1)
    client.flush()
    transport.acknowledge(failure(0))
    with pytest.raises(RemoteOpError) as raised:
        client.synchronize()
    assert "aten::neg(float32[2]) failed at worker bob: RuntimeError: no" in str(raised.value)
    assert f'{__file__}", line {HERE.line}, in instruction' in str(raised.value)
    assert "Traceback of 0" in raised.value.__notes__[0]
    client.synchronize()


def test_several_failures_are_one_error(client: Client, transport: ScriptedTransport) -> None:
    transport.acknowledges = False
    post(client, 8)
    transport.acknowledge(*(failure(place, f"Error{place}") for place in range(8)))
    with pytest.raises(RemoteOpError, match="Error0") as raised:
        client.synchronize()
    also = [note for note in raised.value.__notes__ if note.startswith("Also")]
    assert [f"Error{place}" in note for place, note in enumerate(also, 1)] == [True] * 5
    assert raised.value.__notes__[-1] == "and 2 more failures"


def test_failures_past_the_limit_are_counted(client: Client, transport: ScriptedTransport) -> None:
    transport.acknowledges = False
    for _ in range(25):
        post(client, FLUSH_STREAMING)
        last = transport.batches[-1].first
        transport.acknowledge(*(failure(last + place) for place in range(FLUSH_STREAMING)))
        client.flush_idle()
    with pytest.raises(RemoteOpError) as raised:
        client.synchronize()
    assert raised.value.__notes__[-1] == f"and {25 * FLUSH_STREAMING - 6} more failures"
    client.synchronize()


def test_what_was_raised_by_a_request_is_seen(client: Client, transport: ScriptedTransport) -> None:
    transport.acknowledges = False
    post(client, 1)
    client.flush()
    transport.acknowledge(failure(0))
    for _ in range(2):  # it is raised for every value that hangs on it
        with pytest.raises(RemoteOpError, match=f"line {HERE.line}, in instruction"):
            answered(client, transport, messages.Failed(0, failure(0)))
    client.synchronize()
    assert client.close() is None


def test_close_gives_back_what_nobody_saw(client: Client, transport: ScriptedTransport) -> None:
    transport.acknowledges = False
    post(client, 1)
    client.flush()
    transport.acknowledge(failure(0))
    error = client.close()
    assert isinstance(error, RemoteOpError) and "RuntimeError: no" in str(error)
    assert client.close() is None


def test_lines_are_forgotten_when_their_commands_have_run(client: Client, transport: ScriptedTransport) -> None:
    post(client, 20 * FLUSH_STREAMING)
    client.synchronize()
    assert not client.failures._sites


def test_lines_of_failures_do_not_pile_up(client: Client, transport: ScriptedTransport) -> None:
    """A loop that catches each error must not fill this process's memory (D11)."""
    transport.acknowledges = False
    for _ in range(700):
        post(client, FLUSH_STREAMING)
        last = transport.batches[-1]
        transport.acknowledge(*(failure(last.first + place) for place in range(last.count)))
        with pytest.raises(RemoteOpError):
            client.synchronize()
    assert len(client.failures._failed_sites) <= 5000


# --- both ends of a session


def test_greeting(client: Client, transport: ScriptedTransport) -> None:
    welcome = messages.Welcome(PROTOCOL_VERSION, __version__, "2.13", "bob", "epoch", "cpu")
    transport.answer(welcome)
    assert client.greet("2.13.0", "token", WAIT_SECONDS) == welcome
    assert transport.sent == [messages.Hello(PROTOCOL_VERSION, __version__, "2.13.0", "token")]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (messages.Refused("too old", version=True), VersionMismatchError),
        (messages.Refused("not yours"), ProtocolError),
        (messages.Done(1), ProtocolError),
    ],
)
def test_a_greeting_that_fails(
    client: Client, transport: ScriptedTransport, reply: WorkerMessage, error: type[Exception]
) -> None:
    transport.answer(reply)
    with pytest.raises(error):
        client.greet("2.13.0", "", WAIT_SECONDS)


def test_a_greeting_that_nobody_answers(client: Client) -> None:
    with pytest.raises(WorkerLostError):
        client.greet("2.13.0", "", 0.01)


def test_a_worker_that_refuses_later(client: Client, transport: ScriptedTransport) -> None:
    transport.answer(messages.Refused("you broke a rule"))
    with pytest.raises(ProtocolError, match="you broke a rule"):
        client.synchronize()
    with pytest.raises(ProtocolError, match="you broke a rule"):
        post(client, 1)
    assert client.close() is None


def test_a_second_welcome_ends_the_session(client: Client, transport: ScriptedTransport) -> None:
    transport.answer(messages.Welcome(PROTOCOL_VERSION, __version__, "2.13", "bob", "epoch", "cpu"))
    for _ in range(2):
        with pytest.raises(ProtocolError, match="handshake twice"):
            client.synchronize()


FOUL = {
    "far beyond what was sent": [messages.Acknowledged(2**62, [])],
    "one beyond": [messages.Acknowledged(4, [])],
    "negative": [messages.Acknowledged(-1, [])],
    "less than before": [messages.Acknowledged(3, []), messages.Acknowledged(2, [])],
    "too many failures": [messages.Acknowledged(3, [failure(0)] * (MAX_FAILURES + 1))],
    "a failure of what was not sent": [messages.Acknowledged(3, [failure(3)])],
}


@pytest.mark.parametrize("how", ["read", "polled"])
@pytest.mark.parametrize("foul", FOUL)
def test_an_acknowledgement_that_no_worker_gives_ends_the_session(
    client: Client, transport: ScriptedTransport, foul: str, how: str
) -> None:
    transport.acknowledges = False
    post(client, 3)
    client.flush()
    for message in FOUL[foul]:
        transport.answer(message)
    acts: list[Callable[[], object]] = [
        client.synchronize if how == "read" else client._inbox.poll,
        client.synchronize,
        lambda: post(client, 1),
    ]
    for act in acts:
        with pytest.raises(ProtocolError, match="worker bob (says that it has run|tells of)"):
            act()
    assert isinstance(client.lost, ProtocolError)
    client.flush_idle()
    assert client.close() is None and transport.closed


def test_a_foul_acknowledgement_ends_a_wait_for_room(
    client: Client, transport: ScriptedTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_IN_FLIGHT", 20)
    transport.acknowledges = False
    transport.answer(messages.Acknowledged(2**62, []))
    with pytest.raises(ProtocolError, match="says that it has run"):
        post(client, 100)


def test_an_acknowledgement_may_come_twice(client: Client, transport: ScriptedTransport) -> None:
    """An interrupted receiver may take it twice in a row, and a batch that went out twice is answered twice."""
    transport.acknowledges = False
    post(client, 3)
    client.flush()
    said = [messages.Acknowledged(0, [failure(0)]), messages.Acknowledged(3, [failure(1)])]
    for message in (said[0], said[0], said[1], said[1]):
        transport.answer(message)
    with pytest.raises(RemoteOpError) as caught:
        client.synchronize()
    assert [note for note in caught.value.__notes__ if note.startswith("Also")] == caught.value.__notes__[-1:]
    client.synchronize()
    assert client.in_flight == 0


def test_a_lost_worker_is_reported_by_every_call(client: Client, transport: ScriptedTransport) -> None:
    transport.close()
    with pytest.raises(WorkerLostError):
        client.synchronize()
    for call in (client.synchronize, client.check, lambda: post(client, 1), lambda: client.send(messages.Hide(1))):
        with pytest.raises(WorkerLostError):
            call()
    client.flush_idle()
    assert client.close() is None, "nobody is told of the loss a second time"


def test_hanging_up_says_nothing_and_leaves_no_thread() -> None:
    transport = ScriptedTransport(acknowledges=True)
    client = Client(transport, "bob", synchronous=False, idle_seconds=0.001)
    client.hang_up()
    assert transport.closed and transport.sent == []
    assert not client._flusher._thread.is_alive()


def test_after_close(client: Client, transport: ScriptedTransport) -> None:
    post(client, 3)
    client.close()
    assert isinstance(transport.sent[-1], messages.Bye) and transport.sizes == [3]
    sent = len(transport.sent)
    with pytest.raises(WorkerLostError, match="bob was closed"):
        post(client, 1)
    with pytest.raises(WorkerLostError, match="bob was closed"):
        client.synchronize()
    reference = Reference(client, 1)
    del reference
    client.close()
    assert len(transport.sent) == sent


def test_synchronous_waits_after_each_command(transport: ScriptedTransport) -> None:
    client = Client(transport, "bob", synchronous=True, idle_seconds=NEVER)
    post(client, 3)
    assert [type(message).__name__ for message in transport.sent] == ["Batch", "Synchronize"] * 3
    transport.acknowledges = False
    transport.answer(messages.Acknowledged(4, [failure(3)]))
    with pytest.raises(RemoteOpError):
        post(client, 1)
    client.close()
