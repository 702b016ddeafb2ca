"""Random numbers at the worker: a seed for each command, or one generator in order; torch's own is left alone."""

from collections.abc import Callable

import pytest
import torch
from by_hand import At, ByHand, Deviceless, Field, aten
from torch import Tensor

from ptrtensor.wire import messages
from ptrtensor.worker.operations import drawing
from ptrtensor.worker.randomness import Randomness

CPU = torch.device("cpu")
DATA = torch.linspace(0, 1, 40)

Draw = Callable[[], Tensor]
Remote = Callable[[ByHand, int, int], int]
"""Draws at a session from the data of that name with that seed; gives the result's name."""


def rand(hand: ByHand, data: int, seed: int) -> int:
    return hand.run(aten.rand.default, [40], expect=[DATA], seed=seed, device=Deviceless())


def randn(hand: ByHand, data: int, seed: int) -> int:
    return hand.run(aten.randn.default, [40], expect=[DATA], seed=seed, device=Deviceless())


def randperm(hand: ByHand, data: int, seed: int) -> int:
    return hand.run(aten.randperm.default, 40, expect=[DATA.long()], seed=seed, device=Deviceless())


def normal(hand: ByHand, data: int, seed: int) -> int:
    return hand.run(aten.normal.Tensor_float, At(data), Field(2.0), expect=[DATA], seed=seed)


def normal_(hand: ByHand, data: int, seed: int) -> int:
    target = hand.put(DATA)
    hand.run(aten.normal_.default, At(target), 0.5, 2.0, seed=seed)
    return target


def bernoulli_(hand: ByHand, data: int, seed: int) -> int:
    target = hand.put(DATA)
    hand.run(aten.bernoulli_.float, At(target), 0.3, seed=seed)
    return target


def rand_like(hand: ByHand, data: int, seed: int) -> int:
    return hand.run(aten.rand_like.default, At(data), expect=[DATA], seed=seed)


def dropout(hand: ByHand, data: int, seed: int) -> int:
    return hand.run(aten.native_dropout.default, At(data), 0.5, True, expect=[DATA, DATA.bool()], seed=seed)


def multinomial(hand: ByHand, data: int, seed: int) -> int:
    return hand.run(aten.multinomial.default, At(data), 10, expect=[torch.zeros(10).long()], seed=seed)


DRAWS: dict[str, tuple[Remote, Draw]] = {
    "rand": (rand, lambda: torch.rand(40)),
    "randn": (randn, lambda: torch.randn(40)),
    "randperm": (randperm, lambda: torch.randperm(40)),
    "normal": (normal, lambda: torch.normal(DATA, 2.0)),
    "normal_": (normal_, lambda: DATA.clone().normal_(0.5, 2.0)),
    "bernoulli_": (bernoulli_, lambda: DATA.clone().bernoulli_(0.3)),
    "rand_like": (rand_like, lambda: torch.rand_like(DATA)),
    "dropout": (dropout, lambda: torch.native_dropout(DATA, 0.5, True)[0]),
    "multinomial": (multinomial, lambda: torch.multinomial(DATA, 10)),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_a_command_draws_from_its_seed(draw: str) -> None:
    remote, local = DRAWS[draw]
    hand = ByHand()
    data = hand.put(DATA)
    drawn = [hand.fetch(remote(hand, data, seed)) for seed in (3, 4, 3)]
    expected = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        expected.append(local())
    assert torch.equal(drawn[0], expected[0])
    assert torch.equal(drawn[1], expected[1])
    assert torch.equal(drawn[2], drawn[0]) and not torch.equal(drawn[1], drawn[0])


@pytest.mark.parametrize("draw", DRAWS)
def test_in_order_it_draws_what_a_local_run_draws(draw: str) -> None:
    """Three in a row: torch's generator keeps the second half of a pair of normal numbers, for instance."""
    remote, local = DRAWS[draw]
    hand = ByHand()
    hand.handle(messages.ManualSeed(11))
    data = hand.put(DATA)
    drawn = [hand.fetch(remote(hand, data, 0)) for _ in range(3)]
    torch.manual_seed(11)
    expected = [local() for _ in range(3)]
    for one, other in zip(drawn, expected, strict=True):
        assert torch.equal(one, other)


def test_in_order_across_operations() -> None:
    hand = ByHand()
    hand.handle(messages.ManualSeed(5))
    data = hand.put(DATA)
    drawn = [hand.fetch(remote(hand, data, 0)) for remote, _ in DRAWS.values()]
    torch.manual_seed(5)
    expected = [local() for _, local in DRAWS.values()]
    for one, other in zip(drawn, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("draw", DRAWS)
def test_the_default_generator_is_not_touched(draw: str, in_order: bool) -> None:
    remote, _ = DRAWS[draw]
    hand = ByHand()
    if in_order:
        hand.handle(messages.ManualSeed(1))
    before = torch.get_rng_state()
    remote(hand, hand.put(DATA), 9)
    assert torch.equal(torch.get_rng_state(), before)


def test_none_ends_the_order() -> None:
    hand = ByHand()
    data = hand.put(DATA)
    hand.handle(messages.ManualSeed(1))
    rand(hand, data, 0)
    hand.handle(messages.ManualSeed(None))
    torch.manual_seed(7)
    assert torch.equal(hand.fetch(rand(hand, data, 7)), torch.rand(40))


def test_a_seed_that_torch_refuses_changes_nothing() -> None:
    randomness = Randomness(CPU)
    with pytest.raises(ValueError):
        randomness.manual_seed(2**64)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3, generator=randomness.generator(0)), torch.rand(3)), "it went in order"


def test_the_state_can_be_taken_and_given_back() -> None:
    hand = ByHand()
    data = hand.put(DATA)
    hand.handle(messages.ManualSeed(1))
    rand(hand, data, 0)
    ((reply, payload),) = hand.session.handle(messages.ReadGenerator(1), memoryview(b""))
    assert isinstance(reply, messages.Value) and reply.meta is not None and payload is not None
    state = bytearray(payload)
    first = hand.fetch(rand(hand, data, 0))
    hand.handle(messages.WriteGenerator(reply.meta), state)
    assert torch.equal(hand.fetch(rand(hand, data, 0)), first)


def test_the_default_generator_comes_back_after_an_error() -> None:
    randomness = Randomness(CPU)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), randomness.as_default(3):
        torch.rand(3)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_every_seed_that_can_travel(seed: int) -> None:
    torch.manual_seed(seed)
    assert torch.equal(torch.rand(3, generator=Randomness(CPU).generator(seed)), torch.rand(3))


@pytest.mark.parametrize("op", ["aten::rand_like", "aten::randint_like.low_dtype", "aten::randperm", "aten::bernoulli"])
def test_the_generator_of_the_process_is_left_alone(op: str) -> None:
    """Another thread of a caller in this process may draw from it meanwhile."""
    assert "generator" in drawing(op).names


@pytest.mark.parametrize(("left", "following"), [(624, 624), (2, 624), (1, 2**40), (624, 2)])
def test_a_state_that_leads_beyond_its_numbers(left: int, following: int) -> None:
    """Torch would take it, and draw what lies behind it in memory."""
    randomness = Randomness(CPU)
    state = randomness.state
    state[8:12].view(torch.int32).fill_(left)
    state[16:24].view(torch.int64).fill_(following)
    with pytest.raises(ValueError, match="numbers are left"):
        randomness.state = state


def test_states_that_generators_have() -> None:
    randomness, generator = Randomness(CPU), torch.Generator().manual_seed(3)
    for drawn in (0, 1, 622, 623, 624, 1):
        torch.rand(drawn, generator=generator)
        randomness.state = generator.get_state()
        assert torch.equal(randomness.state, generator.get_state())
