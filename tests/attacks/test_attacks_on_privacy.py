"""A client that plays foul with private data sees the same whatever the data is: each attack is run on two secrets, and
every answer of the worker must be equal, to the byte.
"""

from collections.abc import Callable

import pytest
import torch
from by_hand import At, ByHand, Field
from torch import Tensor

from ptrtensor._torch.memory import meta_of
from ptrtensor.wire import messages
from ptrtensor.wire.control import Publication
from ptrtensor.wire.instruction import Instruction

SEEN = 40
"""Names that an attack looks at, one after the other."""


def seen_of(secret: Tensor, attack: Callable[[ByHand, int], object]) -> list[object]:
    """All that a client is told, with everything asked for that can be asked for."""
    hand = ByHand()
    told: list[object] = []
    handle = hand.session.handle

    def telling(message: messages.ClientMessage, payload: memoryview) -> list[tuple[messages.WorkerMessage, object]]:
        replies = handle(message, payload)
        told.extend((reply, None if data is None else bytes(data)) for reply, data in replies)
        return replies  # type: ignore[return-value]

    hand.session.handle = telling  # type: ignore[method-assign, assignment]
    hand.session.publish(Publication("secret", ("#secret",), "", True, "", 0, meta_of(secret)), secret)
    hand.handle(messages.Search(1, ("#secret",), 1000))
    attack(hand, 1000)
    hand.handle(messages.Synchronize(2))
    for name in [*range(1, SEEN), *range(1000, 1010), *range(2000, 2010)]:
        hand.handle(messages.Fetch(3, name))
        hand.handle(messages.Fetch(4, name, early=True))
        hand.handle(messages.Describe(5, name))
    for message in (messages.Statistics(6), messages.Inventory(7), messages.Search(8, (), 5000)):
        hand.handle(message)
    hand.handle(messages.Recover(9))
    hand.handle(messages.ReadGenerator(10))
    for name in range(1, SEEN):
        hand.handle(messages.Fetch(11, name))
    hand.handle(messages.Bye(12))
    return told


def varied_counts(hand: ByHand, secret: int) -> None:
    """A prediction that held on its first run, and more results on its second."""
    split, fields = hand.define("aten::split.Tensor", At(secret), Field(2), expect=[torch.zeros(2), torch.zeros(2)])
    hand.post([hand.command((split, fields), 2000)])
    hand.post([(None, hand.command((split, [secret, 1]), 2004)[1])])


def results_of_unknown_number(hand: ByHand, secret: int) -> None:
    positive = hand.run("aten::gt.Scalar", At(secret), 0, expect=[torch.zeros(4, dtype=torch.bool)])
    found = hand.run("aten::nonzero", At(positive), expect=None)
    hand.run("aten::unbind.int", At(found), expect=None)
    hand.run("aten::unbind.int", At(secret), expect=None)


def failing(hand: ByHand, secret: int) -> None:
    """An index that is out of range for one of the secrets."""
    index = hand.run("aten::to.dtype", At(secret), torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    table = hand.put(torch.arange(3.0))
    target = hand.put(torch.zeros(4))
    looked_up = hand.run("aten::index_select", At(table), 0, At(index), expect=[torch.zeros(4)])
    hand.run("aten::add_.Tensor", At(target), At(looked_up))
    hand.run("aten::neg", At(target), expect=[torch.zeros(4)])
    hand.run("aten::index_select", At(table), 0, At(index), expect=None)
    hand.run("aten::split.Tensor", At(looked_up), 1, expect=None)


def hidden_statistics(hand: ByHand, secret: int) -> None:
    x = hand.run("aten::view", At(secret), [2, 2], expect=[torch.zeros(2, 2)])
    mean, variance = hand.put(torch.zeros(2)), hand.put(torch.ones(2))
    statistics = [torch.zeros(2, 2), torch.zeros(2), torch.zeros(2)]
    hand.run("aten::native_batch_norm", At(x), None, None, At(mean), At(variance), True, 1.0, 1e-5, expect=statistics)


def given_another_storage(hand: ByHand, secret: int) -> None:
    target = hand.put(torch.zeros(4))
    hand.run("aten::set_.source_Tensor", At(target), At(secret))
    hand.run("aten::neg", At(target), expect=[torch.zeros(4)])


def an_alias_from_before(hand: ByHand, secret: int) -> None:
    target = hand.put(torch.zeros(4))
    alias = hand.run("aten::view", At(target), [2, 2], expect=[torch.zeros(2, 2)])
    of_alias = hand.run("aten::select.int", At(alias), 0, 0, expect=[torch.zeros(2)])
    hand.drop(alias)
    hand.run("aten::copy_", At(target), At(secret))
    hand.drop(target)
    hand.run("aten::neg", At(of_alias), expect=[torch.zeros(2)])


def a_name_that_is_used_twice(hand: ByHand, secret: int) -> None:
    """A private result under the name of something public, and the other way round."""
    public = hand.put(torch.zeros(4))
    hand.post([hand.command(hand.define("aten::neg", At(secret), expect=[torch.zeros(4)]), public)])
    private = hand.run("aten::neg", At(secret), expect=[torch.zeros(4)])
    hand.handle(messages.Put(private, meta_of(torch.zeros(4))), bytearray(16))


def numbers_in_order(hand: ByHand, secret: int) -> None:
    """How many numbers are drawn depends on the rates."""
    hand.handle(messages.ManualSeed(3))
    rates = hand.run("aten::exp", At(secret), expect=[torch.zeros(4)])
    hand.run("aten::poisson", At(rates), expect=[torch.zeros(4)], seed=0)
    hand.run("aten::rand_like", At(hand.put(torch.zeros(4))), expect=[torch.zeros(4)], seed=0)


def wrong_predictions(hand: ByHand, secret: int) -> None:
    positive = hand.run("aten::gt.Scalar", At(secret), 0, expect=[torch.zeros(4, dtype=torch.bool)])
    hand.run("aten::masked_select", At(secret), At(positive), expect=[torch.zeros(2)])
    hand.run("aten::masked_select", At(secret), At(positive), expect=[torch.zeros(4)])


def what_is_refused(hand: ByHand, secret: int) -> None:
    hand.run("aten::no_such_operation", At(secret), expect=[torch.zeros(4)])
    hand.run("aten::equal", At(secret), At(secret), expect=None)
    hand.run("aten::_local_scalar_dense", At(hand.run("aten::sum", At(secret), expect=[torch.zeros(())])), expect=None)


def tagged(hand: ByHand, secret: int) -> None:
    index = hand.run("aten::to.dtype", At(secret), torch.int64, expect=[torch.zeros(4, dtype=torch.int64)])
    looked_up = hand.run("aten::index_select", At(hand.put(torch.arange(3.0))), 0, At(index), expect=[torch.zeros(4)])
    hand.handle(messages.Annotate(looked_up, ("#mine",), "mine"))
    hand.handle(messages.Search(20, ("#mine",), 2000))


ATTACKS = [
    varied_counts,
    results_of_unknown_number,
    failing,
    hidden_statistics,
    given_another_storage,
    an_alias_from_before,
    a_name_that_is_used_twice,
    numbers_in_order,
    wrong_predictions,
    what_is_refused,
    tagged,
]

SECRETS = [torch.tensor([1.0, 2.0, 0.0, 1.0]), torch.tensor([7.0, -9.0, 5.0, 3.0])]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_client_sees_the_same_whatever_the_secret_is(attack: Callable[[ByHand, int], object]) -> None:
    first, second = (seen_of(secret.clone(), attack) for secret in SECRETS)
    assert first == second
    assert sum(isinstance(reply[0], messages.Denied) for reply in first if isinstance(reply, tuple)) >= 4


def test_the_same_attacks_tell_public_secrets_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would prove nothing: without labels most of them see which secret it was."""
    monkeypatch.setattr("ptrtensor.worker.catalogue.Store.label", lambda store, name, labels: None)
    told_apart = [attack for attack in ATTACKS if seen_of(SECRETS[0], attack) != seen_of(SECRETS[1], attack)]
    assert told_apart == ATTACKS


def test_names_below_zero_are_not_a_clients() -> None:
    """Published tensors are kept under them."""
    hand = ByHand()
    assert isinstance(hand.define("aten::neg", At(1))[0], Instruction)
    with pytest.raises(Exception, match="argument out of range|must be|int too large|ubyte|format requires"):
        hand.command(hand.define("aten::neg", At(-1)), 5)
