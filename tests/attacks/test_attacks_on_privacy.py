"""A client that plays foul with private data sees the same whatever the data is: each attack is run on two secrets, and
every answer of the worker must be equal, to the byte.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from by_hand import At, ByHand
from desk import judged
from foul_play import ATTACKS
from torch import Tensor

from ptrtensor._torch.memory import meta_of
from ptrtensor.owner.policy import Policy, QuotaRule, Rule
from ptrtensor.owner.state import State
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.control import Publication, Quota
from ptrtensor.wire.instruction import Instruction
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session

SEEN = 40
"""Names that an attack looks at, one after the other."""

BESIDE = {
    "other": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "limited": torch.tensor([4.0, 3.0, 2.0, 1.0]),
    "open": torch.tensor([5.0, 6.0, 7.0, 8.0]),
    "plain": torch.tensor([9.0, 9.0, 9.0, 9.0]),
}
"""What else is published: the same whatever the secret is. Found under names from 1100, 1200, 1300 and 1400 on."""


def seen_of(secret: Tensor, attack: Callable[[ByHand, int], object], session: Session | None = None) -> list[object]:
    """All that a client is told, with everything asked for that can be asked for."""
    hand = ByHand(session)
    told: list[object] = []
    handle = hand.session.handle

    def telling(message: messages.ClientMessage, payload: memoryview) -> list[tuple[messages.WorkerMessage, object]]:
        replies = handle(message, payload)
        told.extend((without_times(reply), None if data is None else bytes(data)) for reply, data in replies)
        return replies  # type: ignore[return-value]

    hand.session.handle = telling  # type: ignore[method-assign, assignment]
    publications = {"secret": secret, **BESIDE}
    for first, (tag, tensor) in enumerate(publications.items(), 10):
        hand.session.publish(publication_of(tag, tensor), tensor)
        hand.handle(messages.Search(1, (f"#{tag}",), 100 * first))
    attack(hand, 1000)
    hand.handle(messages.Synchronize(2))
    for name in [*range(1, SEEN), *range(1000, 1010), *range(2000, 2010)]:
        hand.handle(messages.Fetch(3, name))
        hand.handle(messages.Fetch(4, name, early=True))
        hand.handle(messages.Describe(5, name))
        if session is not None:
            hand.handle(messages.AskRelease(5, name, "for science"))
    hand.handle(messages.ListReleases(5))
    for tag in publications:
        hand.handle(messages.Search(5, (f"#{tag}",), 6000))
    for message in (messages.Statistics(6), messages.Inventory(7), messages.Search(8, (), 5000)):
        hand.handle(message)
    hand.handle(messages.Recover(9))
    hand.handle(messages.ReadGenerator(10))
    for name in range(1, SEEN):
        hand.handle(messages.Fetch(11, name))
    hand.handle(messages.Bye(12))
    return told


def without_times(reply: messages.WorkerMessage) -> object:
    """How long it takes may tell of a secret, and is nothing that these attacks are about."""
    return [timing.count for timing in reply.timings] if isinstance(reply, messages.Measured) else reply


def publication_of(name: str, tensor: Tensor) -> Publication:
    return Publication(name, (f"#{name}",), "", name != "plain", "", 0, meta_of(tensor))


SECRETS = [torch.tensor([1.0, 2.0, 0.0, 1.0]), torch.tensor([7.0, -9.0, 5.0, 3.0])]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_client_sees_the_same_whatever_the_secret_is(attack: Callable[[ByHand, int], object]) -> None:
    first, second = (seen_of(secret.clone(), attack) for secret in SECRETS)
    assert first == second
    assert sum(isinstance(reply[0], messages.Denied) for reply in first if isinstance(reply, tuple)) >= 4


RULES = (
    Rule(tags=("#other",), refused=("neg",)),
    Rule(tags=("#limited",), read="always", elements_per_day=30),
    Rule(tags=("#open",), read="always"),
)

POLICIES = {
    "never": Policy(rule=(*RULES, Rule(refused=("bernoulli",)))),
    "ask": Policy(rule=(*RULES, Rule(read="ask"))),
    "limited": Policy(rule=(*RULES, Rule(read="always", elements_per_day=0))),
    "nothing runs": Policy(rule=(*RULES, Rule(operations=("to", "index_select", "gt")))),
    "seven operations": Policy(rule=RULES, quota=(QuotaRule(operations_per_day=7),)),
}


@pytest.fixture
def predictable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ids and times of requests that are the same each time; begin anew with a call."""
    numbers = itertools.count(1)

    def restart() -> None:
        nonlocal numbers
        numbers = itertools.count(1)

    monkeypatch.setattr("ptrtensor.owner.requests.secrets.token_hex", lambda count: str(next(numbers)))
    monkeypatch.setattr("ptrtensor.owner.requests.now", lambda: "2026-01-01T00:00:00+00:00")
    return restart


@pytest.mark.parametrize("objects", [None, 12, 20])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_nor_does_a_policy_tell_him(
    attack: Callable[[ByHand, int], object],
    policy: str,
    objects: int | None,
    tmp_path: Path,
    predictable: Callable[[], None],
) -> None:
    """Neither what may be asked for, nor what is refused, nor a quota."""
    seen = []
    for number, secret in enumerate(SECRETS):
        predictable()
        state = State(tmp_path / f"{number}.sqlite")
        rules = POLICIES[policy]
        publications = tuple(publication_of(name, tensor) for name, tensor in {"secret": secret, **BESIDE}.items())
        quota = Quota(None, objects, bool(rules.quota))
        owner = judged(rules, publications, state)
        identity = Identity("bob", __version__, str(torch.__version__))
        seen.append(seen_of(secret.clone(), attack, Session(identity, owner=owner, quota=quota)))
        state.close()
    assert seen[0] == seen[1]


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
