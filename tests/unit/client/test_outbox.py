"""The outbox: what was posted and what died, in order, whatever happens in between."""

import gc
import threading
from collections.abc import Iterator

import pytest
from collecting import collect

from ptrtensor.client import outbox as outbox_module
from ptrtensor.client.callsite import CallSite
from ptrtensor.client.failures import Failures
from ptrtensor.client.outbox import Outbox
from ptrtensor.client.reference import Reference
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.wire.connection import encode
from ptrtensor.wire.instruction import DROP_HEADER, NUMBER, Constant, Instruction, encoded_size, layout
from ptrtensor.wire.limits import MAX_BATCH_BYTES, MAX_MESSAGE_BYTES

NEG = Instruction(1, "aten::neg", (), {}, False, ())
COMMAND = layout(NEG).pack(1, 0)


def here() -> CallSite:
    return CallSite(here.__code__, 1)


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(Failures("bob"))


@pytest.fixture
def collector() -> Iterator[None]:
    """Garbage is collected when the test says so."""
    before = gc.get_threshold()
    gc.disable()
    yield
    gc.set_threshold(*before)
    gc.enable()


def test_numbers_count_on(outbox: Outbox) -> None:
    for _ in range(3):
        assert outbox.join(NEG, COMMAND, here())
    assert (outbox.first, outbox.next, len(outbox)) == (0, 3, 3)
    batch, commands = outbox.batch()
    assert (batch.first, batch.count, commands) == (0, 3, 3 * COMMAND)
    outbox.sent(batch)
    assert (outbox.first, outbox.next, len(outbox)) == (3, 3, 0)


def test_what_joins_while_a_batch_goes_out_stays(outbox: Outbox) -> None:
    outbox.join(NEG, COMMAND, here())
    batch, _ = outbox.batch()
    other = Instruction(2, "aten::abs", (), {}, False, ())
    outbox.join(other, COMMAND, here())
    outbox.sent(batch)
    rest, commands = outbox.batch()
    assert (rest.first, rest.count, rest.definitions, commands) == (1, 1, [other], COMMAND)


def test_a_batch_that_was_not_sent_goes_out_again(outbox: Outbox) -> None:
    outbox.join(NEG, COMMAND, here())
    outbox.batch()
    outbox.join(NEG, COMMAND, here())
    batch, _ = outbox.batch()
    assert (batch.first, batch.count, batch.definitions) == (0, 2, [NEG])


def test_drops_are_one_command(outbox: Outbox) -> None:
    outbox.take_in_drops()
    assert len(outbox) == 0
    for name in (7, 8):
        Reference(outbox, name)
    outbox.take_in_drops()
    outbox.take_in_drops()
    _, commands = outbox.batch()
    assert commands == DROP_HEADER.pack(0, 2) + NUMBER.pack(7) + NUMBER.pack(8)


@pytest.mark.usefixtures("collector")
def test_names_may_die_at_any_moment(outbox: Outbox) -> None:
    """A collection that comes while the dead names are looked through finds more of them."""
    for count in range(1, 150):
        Reference(outbox, count)
        cycle: list[object] = [Reference(outbox, 1000 + count)]
        cycle.append(cycle)
        del cycle
        gc.set_threshold(gc.get_count()[0] + count % 40, 10_000, 10_000)
        gc.enable()
        outbox.take_in_drops()
        gc.disable()
    collect()
    outbox.take_in_drops()
    _, commands = outbox.batch()
    assert not outbox.drops
    for name in (*range(1, 150), *range(1001, 1150)):
        assert NUMBER.pack(name) in commands


def test_names_die_in_another_thread(outbox: Outbox) -> None:
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            Reference(outbox, 1)

    thread = threading.Thread(target=churn, daemon=True)
    thread.start()
    try:
        for _ in range(30_000):
            outbox.take_in_drops()
            outbox.sent(outbox.batch()[0])
    finally:
        over.set()
        thread.join(20)


def test_a_number_may_change_its_meaning_where_no_command_waits_with_the_old_one(outbox: Outbox) -> None:
    other, again = Instruction(2, "aten::abs", (), {}, False, ()), Instruction(1, "aten::cos", (), {}, False, ())
    outbox.join(NEG, COMMAND, here())
    outbox.sent(outbox.batch()[0])
    assert outbox.join(other, layout(other).pack(2, 0), here())
    assert outbox.join(again, layout(again).pack(1, 0), here())
    assert outbox.batch()[0].definitions == [other, again]
    assert not outbox.join(NEG, COMMAND, here())


# --- what no batch may exceed [P3.1]


def everything(outbox: Outbox) -> tuple[bytes, list[Instruction], list[int]]:
    """All commands, all definitions, and how many commands there were in each batch."""
    commands, definitions, counts = b"", list[Instruction](), list[int]()
    while len(outbox):
        batch, payload = outbox.batch()
        assert batch.first == sum(counts)
        commands += payload
        definitions += batch.definitions
        counts.append(batch.count)
        outbox.sent(batch)
    return commands, definitions, counts


def constant(number: int, size: int) -> Instruction:
    """An instruction whose definition is about so long."""
    return Instruction(number, "aten::neg", (Constant("x" * size),), {}, False, ())


def test_a_batch_is_no_larger_than_a_worker_takes(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_BATCH_BYTES", 3 * len(COMMAND) + 1)
    for _ in range(7):
        outbox.join(NEG, COMMAND, here())
    assert everything(outbox) == (7 * COMMAND, [NEG], [3, 3, 1])


def test_what_piles_up_while_another_thread_sends_can_be_sent(outbox: Outbox) -> None:
    long = COMMAND.ljust(2400, b"x")
    for _ in range(8192):
        outbox.join(NEG, long, here())
    while len(outbox):
        batch, payload = outbox.batch()
        encode(batch, payload)
        outbox.sent(batch)
    assert outbox.first == 8192


def test_definitions_are_no_larger_than_a_message(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each goes out no later than its command."""
    wanted = [constant(number, 200) for number in range(1, 8)]
    monkeypatch.setattr(outbox_module, "MAX_DEFINITION_BYTES", 3 * encoded_size(wanted[0]))
    outbox.join(NEG, COMMAND, here())
    outbox.sent(outbox.batch()[0])
    for instruction in wanted:
        for _ in range(2):
            outbox.join(instruction, COMMAND, here())
    counts = []
    defined = list[Instruction]()
    while len(outbox):
        batch, _ = outbox.batch()
        defined += batch.definitions
        counts.append(batch.count)
        outbox.sent(batch)
        assert (outbox.first - 1) / 2 <= len(defined)
    assert defined == wanted and counts == [6, 6, 2]


def test_the_longest_definitions_fit(outbox: Outbox) -> None:
    longest = constant(1, outbox_module.MAX_DEFINITION_BYTES - encoded_size(constant(1, 70_000)) + 70_000)
    assert encoded_size(longest) == outbox_module.MAX_DEFINITION_BYTES
    outbox.join(longest, COMMAND, here())
    outbox.join(constant(2, 10), COMMAND, here())
    for _ in range(2):
        batch, payload = outbox.batch()
        assert batch.count == 1
        encode(batch, payload)
        outbox.sent(batch)


def test_definitions_whose_commands_never_came_are_sent_too(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption may fall between the two."""
    long = [constant(number, 200) for number in range(1, 6)]
    monkeypatch.setattr(outbox_module, "MAX_DEFINITION_BYTES", 2 * encoded_size(long[0]))
    for instruction in long[:4]:
        outbox._define(instruction)
    outbox.join(long[4], COMMAND, here())
    assert everything(outbox) == (COMMAND, long, [0, 0, 1])


@pytest.mark.parametrize(
    ("instruction", "command"),
    [(NEG, bytes(MAX_BATCH_BYTES + 1)), (constant(1, MAX_MESSAGE_BYTES), COMMAND)],
    ids=["command", "definition"],
)
def test_what_no_batch_can_hold_is_refused_before_it_joins(
    outbox: Outbox, instruction: Instruction, command: bytes
) -> None:
    with pytest.raises(UnsupportedOpError, match=r"aten::neg .* call it on parts"):
        outbox.join(instruction, command, here())
    assert len(outbox) == 0 and not outbox._failures._sites
    outbox.join(NEG, COMMAND, here())
    assert everything(outbox) == (COMMAND, [NEG], [1])


def test_very_many_drops_are_several_commands(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_BATCH_BYTES", DROP_HEADER.size + 3 * NUMBER.size)
    for name in range(1, 8):
        Reference(outbox, name)
    outbox.take_in_drops()
    commands, _, counts = everything(outbox)
    assert counts == [1, 1, 1] and not outbox.living
    assert commands == b"".join(
        DROP_HEADER.pack(0, len(names)) + b"".join(map(NUMBER.pack, names)) for names in ((1, 2, 3), (4, 5, 6), (7,))
    )
