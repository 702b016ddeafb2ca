"""The outbox: what was posted and what died, in order, whatever happens in between."""

import gc
import threading
from collections.abc import Iterator

import pytest
from collecting import collect

from ptrtensor.client.callsite import CallSite
from ptrtensor.client.failures import Failures
from ptrtensor.client.outbox import Outbox
from ptrtensor.client.reference import Reference
from ptrtensor.wire.instruction import DROP_HEADER, NUMBER, Instruction, layout

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
