"""Ctrl-C at every place where Python looks for signals: no command is lost or run twice, and the session lives on.

Each place is tried on a session of its own, in a thread of its own, so that a lock that nobody gives back is a
failed test and not one that hangs.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable

import pytest
import torch
from by_hand import At, ByHand, Field, aten
from client_transports import connected
from interrupting import InterruptError, interrupted

from ptrtensor._torch.memory import bytes_of, meta_of, tensor_of
from ptrtensor.client import outbox
from ptrtensor.client.callsite import CallSite
from ptrtensor.client.client import FLUSH_STREAMING, Client
from ptrtensor.client.reference import Reference
from ptrtensor.errors import RemoteOpError
from ptrtensor.wire import messages
from ptrtensor.worker.executor import INTERRUPTED

FILES = {
    "in process": ["client/client", "client/outbox", "client/failures", "transport/", "worker/"],
    "sockets": ["client/client", "client/outbox", "transport/", "wire/"],
}
"""Not `client/reference`: Python itself swallows what is raised in a destructor."""

PLACES = [(kind, file) for kind, files in FILES.items() for file in files]
MANY = 5
"""So many places that fail are enough to see."""

SWALLOWED = 3
"""Python swallows what is raised in a generator that is closed; so many places in a row without effect are the end."""

HERE = CallSite(bytes_of.__code__, 1)
Act = Callable[["Program"], None]


class Program:
    """A client's program that counts: commands that were surely posted, and those that may have been."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.done = self.tried = 0
        self.failed = 0
        self._hand = ByHand()  # for its instructions only
        self.total = self.put(0.0)
        self._add, _ = self._hand.define(aten.add_.Tensor, At(0), Field(1))
        self._wrong, _ = self._hand.define("aten::no_such_operation", expect=[torch.ones(2)])

    def put(self, number: float) -> Reference:
        tensor = torch.tensor(number, dtype=torch.float64)
        reference = Reference(self.client, self.client.reserve())
        self.client.send(messages.Put(reference.name, meta_of(tensor)), bytes_of(tensor))
        return reference

    def fetch(self, reference: Reference) -> float:
        value, payload = self.client.request(lambda number: messages.Fetch(number, reference.name), messages.Value)
        assert value.meta is not None
        return float(tensor_of(value.meta, payload))

    def add(self, times: int) -> None:
        for _ in range(times):
            _, command = self._hand.command((self._add, [self.total.name, 1]), self.client.reserve())
            self.tried += 1
            self.client.post(self._add, command, HERE)
            self.done += 1

    def fail(self) -> None:
        _, command = self._hand.command((self._wrong, []), self.client.reserve())
        self.client.post(self._wrong, command, HERE)
        self.failed += 1

    def check(self) -> None:
        """The session works, the sum is right, and nothing is left of what was interrupted."""
        self.add(FLUSH_STREAMING + 1)
        try:
            assert self.done <= self.fetch(self.total) <= self.tried
        except RemoteOpError as error:
            # A worker in this process stops in the middle of an operation, and says so.
            if INTERRUPTED not in str(error):
                raise
        assert self.fetch(self.put(7.0)) == 7.0
        with contextlib.suppress(RemoteOpError):
            self.client.synchronize()
        self.client.synchronize()
        assert not self.client._inbox._replies and not self.client._inbox._awaited and not self.client.drops


def posting(program: Program) -> None:
    program.add(FLUSH_STREAMING + 2)


def flushing(program: Program) -> None:
    program.add(2)
    program.client.flush()
    program.client.flush_idle()


def requesting(program: Program) -> None:
    program.add(1)
    assert program.fetch(program.total) == program.done
    program.client.synchronize()


def dropping(program: Program) -> None:
    for _ in range(2):
        program.put(3.0)
        program.add(1)
    program.client.flush()


def redefining(program: Program) -> None:
    """Two instructions take turns in having the same number."""
    one = program._add
    other, _ = program._hand.define(aten.add_.Tensor, At(0), Field(1))
    program._add = type(one)(one.number, *(getattr(other, name) for name in other.__struct_fields__[1:]))
    program.add(2)
    program._add = one
    program.add(1)


ACTS: dict[str, Act] = {act.__name__: act for act in (posting, flushing, requesting, dropping, redefining)}


def in_thread(act: Callable[[], None], seconds: float = 5.0) -> str:
    """What is wrong with it, if anything."""
    wrong = ["it never ends"]

    def run() -> None:
        try:
            act()
            wrong[0] = ""
        except BaseException as error:
            wrong[0] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return wrong[0]


def try_place(kind: str, within: str, act: Act, at: int) -> tuple[bool, str]:
    """Whether there is such a place, and what an interruption there breaks."""
    reached: list[bool] = []
    with contextlib.ExitStack() as stack:
        client, _ = stack.enter_context(connected(kind))
        program = Program(client)

        def run() -> None:
            reached.append(interrupted(lambda: act(program), at, within))
            program.check()

        wrong = in_thread(run) or in_thread(program.check)
        if wrong:
            client._transport.close()
            stack.pop_all()  # it may not be possible to close it
    return bool(reached and reached[0]), wrong


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("kind", "within"), PLACES)
def test_every_place(kind: str, within: str, act: str) -> None:
    assert not broken_places(kind, within, ACTS[act])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("act", ["flushing", "dropping", "redefining"])
@pytest.mark.parametrize("within", ["client/client", "client/outbox"])
@pytest.mark.parametrize("kind", FILES)
def test_every_place_where_what_waits_is_too_much_for_a_batch(
    kind: str, within: str, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_BATCH_BYTES", 40)  # a command, or the names of three that died
    monkeypatch.setattr(outbox, "MAX_DEFINITION_BYTES", 150)
    assert not broken_places(kind, within, ACTS[act])


def broken_places(kind: str, within: str, act: Act) -> dict[int, str]:
    broken: dict[int, str] = {}
    at = last = 0
    while at <= last + SWALLOWED and len(broken) < MANY:
        at += 1
        reached, wrong = try_place(kind, within, act, at)
        if reached:
            last = at
        if wrong:
            broken[at] = wrong
    return broken


@pytest.mark.parametrize("within", ["client/client", "client/failures"])
@pytest.mark.parametrize("kind", ["in process", "sockets"])
def test_a_failure_is_not_lost(kind: str, within: str) -> None:
    """A failure that was posted is raised in the end, whatever was interrupted on the way."""
    lost: list[int] = []
    for at in itertools.count(1):
        with connected(kind) as (client, _):
            program = Program(client)
            seen = 0

            def act(program: Program = program) -> None:
                nonlocal seen
                program.fail()
                program.client.flush()
                try:
                    program.client.synchronize()
                except RemoteOpError:
                    seen += 1
                except InterruptError as interruption:
                    seen += isinstance(interruption.__context__, RemoteOpError)  # shown along with it
                    raise

            again = interrupted(act, at, within)
            try:
                client.synchronize()
            except RemoteOpError:
                seen += 1
            if seen < program.failed:
                lost.append(at)
        if not again:
            break
    assert not lost


def test_the_tests_see_a_lost_command() -> None:
    """The check above is worth something: a command that is not posted, or posted twice, is noticed."""
    with connected("in process") as (client, _):
        program = Program(client)
        program.done += 1
        with pytest.raises(AssertionError):
            program.check()
        program.done -= 1
        program.tried -= 1
        with pytest.raises(AssertionError):
            program.check()


def test_an_interruption_reaches_the_caller() -> None:
    with connected("in process") as (client, _):
        program = Program(client)
        assert interrupted(lambda: program.add(FLUSH_STREAMING), 20, "ptrtensor/client")
        assert not interrupted(lambda: program.add(1), 10_000, "ptrtensor/client")
        assert issubclass(InterruptError, KeyboardInterrupt)
