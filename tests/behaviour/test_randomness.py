"""Random numbers (D16): seeds travel with each command, or a worker draws in order as a local program would."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import check_equal, check_tensor, value
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ptrtensor as pt
from ptrtensor.api import FLUSH_SECONDS

Draw = Callable[[Tensor], Tensor]


def attention(x: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)


DRAWS: dict[str, Draw] = {
    "rand_like": torch.rand_like,
    "randn_like": torch.randn_like,
    "randint_like": lambda x: torch.randint_like(x, 1000),
    "rand": lambda x: torch.rand(8, device=x.device),
    "randn": lambda x: torch.randn(8, device=x.device),
    "randint": lambda x: torch.randint(1000, (8,), device=x.device),
    "randperm": lambda x: torch.randperm(50, device=x.device),
    "normal": lambda x: torch.normal(x, 1.0),
    "normal of sizes": lambda x: torch.normal(0.0, 1.0, (8,), device=x.device),
    "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.5)),
    "multinomial": lambda x: torch.multinomial(torch.ones_like(x), 5),
    "poisson": lambda x: torch.poisson(torch.full_like(x, 5.0)),
    "binomial": lambda x: torch.binomial(torch.full_like(x, 20.0), torch.full_like(x, 0.5)),
    "uniform_": lambda x: x.clone().uniform_(-1, 1),
    "normal_": lambda x: x.clone().normal_(),
    "exponential_": lambda x: x.clone().exponential_(),
    "geometric_": lambda x: x.clone().geometric_(0.1),
    "cauchy_": lambda x: x.clone().cauchy_(),
    "log_normal_": lambda x: x.clone().log_normal_(),
    "random_": lambda x: x.clone().random_(1000),
    "bernoulli_": lambda x: x.clone().bernoulli_(0.5),
    "dropout": lambda x: nn.functional.dropout(x + 1, 0.5),
    "dropout1d": lambda x: nn.functional.dropout1d(x.view(1, 8, 1) + 1, 0.5),
    "alpha_dropout": lambda x: nn.functional.alpha_dropout(x + 1, 0.5, training=True),
    "feature_alpha_dropout": lambda x: nn.functional.feature_alpha_dropout(x.view(1, 8, 1) + 1, 0.5, training=True),
    "rrelu": lambda x: nn.functional.rrelu(x - 1, training=True),
    "gumbel_softmax": lambda x: nn.functional.gumbel_softmax(x.view(2, 4)),
    "attention with dropout": lambda x: attention(x.view(1, 1, 4, 2) + 1),
    "fractional_max_pool2d": lambda x: nn.functional.fractional_max_pool2d(
        torch.arange(64.0, device=x.device).view(1, 1, 8, 8), 2, output_size=5
    ),
    "xavier_uniform_": lambda x: nn.init.xavier_uniform_(x.view(2, 4).clone()),
    "trunc_normal_": lambda x: nn.init.trunc_normal_(x.clone()),
    "orthogonal_": lambda x: nn.init.orthogonal_(x.view(2, 4).clone()),
    "a Linear made there": lambda x: nn.Linear(3, 2, device=x.device).weight.detach(),
    "Normal": lambda x: torch.distributions.Normal(x, 1.0, validate_args=False).sample(),
    "Categorical": lambda x: torch.distributions.Categorical(logits=x, validate_args=False).sample((20,)),
}


@pytest.fixture
def zeros(worker: pt.Worker) -> Tensor:
    return pt.send(torch.zeros(8), worker)


# --- a seed with each command


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_manual_seed_here_makes_draws_there_repeat(draw: Draw, zeros: Tensor) -> None:
    torch.manual_seed(5)
    first, second = value(draw(zeros)), value(draw(zeros))
    torch.manual_seed(5)
    assert torch.equal(value(draw(zeros)), first) and torch.equal(value(draw(zeros)), second)
    torch.manual_seed(6)
    others = [value(draw(zeros)) for _ in range(5)]
    assert not all(torch.equal(other, first) for other in (second, *others)), "they differ otherwise"


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_draws_there_leave_the_workers_own_process_alone(draw: Draw, virtual_worker: pt.VirtualWorker) -> None:
    """A worker in this process shares torch's default generator with us: only the seed is taken from it."""
    zeros = pt.send(torch.zeros(8), virtual_worker)
    draw(zeros)  # what is drawn for the first time may draw more seeds
    torch.manual_seed(5)
    draw(zeros)
    time.sleep(3 * FLUSH_SECONDS)  # nobody else runs it on a thread of its own
    after_one = torch.rand(3)
    torch.manual_seed(5)
    draw(zeros)
    virtual_worker.synchronize()
    assert torch.equal(torch.rand(3), after_one)


def test_fork_rng_gives_the_numbers_back(zeros: Tensor) -> None:
    torch.manual_seed(5)
    expected = value(torch.rand_like(zeros))
    torch.manual_seed(5)
    with torch.random.fork_rng():
        torch.rand_like(zeros)
        torch.rand(3)
    assert torch.equal(value(torch.rand_like(zeros)), expected)


def test_the_state_of_the_generator_here_is_all_there_is(zeros: Tensor) -> None:
    state = torch.get_rng_state()
    first = value(torch.rand_like(zeros))
    torch.set_rng_state(state)
    assert torch.equal(value(torch.rand_like(zeros)), first)


GIVEN: dict[str, Callable[[Tensor, torch.Generator | None], Tensor]] = {
    "rand": lambda x, g: torch.rand(8, generator=g, device=x.device),
    "randn": lambda x, g: torch.randn(8, generator=g, device=x.device),
    "randperm": lambda x, g: torch.randperm(50, generator=g, device=x.device),
    "randint": lambda x, g: torch.randint(1000, (8,), generator=g, device=x.device),
    "bernoulli": lambda x, g: torch.bernoulli(torch.full_like(x, 0.5), generator=g),
    "normal_": lambda x, g: x.clone().normal_(generator=g),
    "uniform_": lambda x, g: x.clone().uniform_(generator=g),
    "multinomial": lambda x, g: torch.multinomial(torch.ones_like(x), 5, generator=g),
    "poisson": lambda x, g: torch.poisson(torch.full_like(x, 5.0), generator=g),
    "binomial": lambda x, g: torch.binomial(torch.full_like(x, 20.0), torch.full_like(x, 0.5), generator=g),
    "trunc_normal_": lambda x, g: nn.init.trunc_normal_(x.clone(), generator=g),
    "randn_like": lambda x, g: torch.randn_like(x, generator=g),
}


@pytest.mark.parametrize("draw", GIVEN.values(), ids=list(GIVEN))
def test_a_given_generator_is_used_and_the_default_one_is_not(
    draw: Callable[[Tensor, torch.Generator | None], Tensor], zeros: Tensor
) -> None:
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(9)
        draws.append([value(draw(zeros, generator)) for _ in range(3)])
    assert all(torch.equal(one, other) for one, other in zip(*draws, strict=True))
    assert not all(torch.equal(draws[0][0], other) for other in draws[0][1:])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("draw", GIVEN.values(), ids=list(GIVEN))
def test_no_generator_may_be_said(draw: Callable[[Tensor, torch.Generator | None], Tensor], zeros: Tensor) -> None:
    torch.manual_seed(9)
    first = value(draw(zeros, None))
    torch.manual_seed(9)
    assert torch.equal(value(draw(zeros, None)), first)


def test_draws_of_one_distribution_are_what_they_should_be(worker: pt.Worker) -> None:
    """A seed for each command must not make the commands' first numbers alike."""
    firsts = torch.stack([value(torch.rand(1, device=worker.device)) for _ in range(400)])
    assert 0.42 < firsts.mean() < 0.58 and 0.07 < firsts.var() < 0.1 and len(firsts.unique()) > 390


def test_two_workers_draw_different_numbers(worker: pt.Worker, second_worker: pt.Worker) -> None:
    one = torch.rand(8, device=worker.device)
    other = torch.rand(8, device=second_worker.device)
    assert not torch.equal(value(one), value(other))


def test_a_program_is_the_same_with_either_kind_of_worker(
    virtual_worker: pt.VirtualWorker, process_worker: pt.ProcessWorker
) -> None:
    drawn = []
    for worker in (virtual_worker, process_worker):
        torch.manual_seed(5)
        drawn.append([value(draw(pt.send(torch.zeros(8), worker))) for draw in DRAWS.values()])
    for name, one, other in zip(DRAWS, *drawn, strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")  # type: ignore[misc]


# --- in order, after worker.manual_seed


@pytest.fixture
def in_order(worker: pt.Worker) -> Any:
    """A worker that draws in order, and as before when the test is over."""
    yield worker
    worker.manual_seed(None)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_in_order_the_numbers_are_the_local_ones(draw: Draw, in_order: pt.Worker) -> None:
    torch.manual_seed(5)
    expected = [draw(torch.zeros(8)) for _ in range(3)]
    in_order.manual_seed(5)
    there = pt.send(torch.zeros(8), in_order)
    check_equal([draw(there) for _ in range(3)], expected, in_order, 1e-6)


def test_in_order_nothing_is_drawn_here(in_order: pt.Worker) -> None:
    in_order.manual_seed(5)
    before = torch.get_rng_state()
    value(torch.rand(8, device=in_order.device))
    assert torch.equal(torch.get_rng_state(), before)


def test_in_order_a_given_generator_is_used_and_the_workers_own_is_not(in_order: pt.Worker) -> None:
    def draws() -> list[Tensor]:
        generator = torch.Generator().manual_seed(9)
        return [value(torch.rand(4, generator=generator, device=in_order.device)) for _ in range(2)]

    expected = draws()
    in_order.manual_seed(5)
    undisturbed = value(torch.rand(4, device=in_order.device))
    in_order.manual_seed(5)
    assert all(map(torch.equal, draws(), expected)) and not torch.equal(*expected)
    assert torch.equal(value(torch.rand(4, device=in_order.device)), undisturbed)


def test_in_order_it_goes_on_from_one_command_to_the_next(in_order: pt.Worker) -> None:
    in_order.manual_seed(5)
    one = [value(torch.rand(2, device=in_order.device)) for _ in range(2)]
    in_order.manual_seed(5)
    assert torch.equal(value(torch.rand(4, device=in_order.device)), torch.cat(one))


def test_none_goes_back_to_seeds_from_here(in_order: pt.Worker) -> None:
    torch.manual_seed(5)
    expected = value(torch.rand(8, device=in_order.device))
    in_order.manual_seed(1)
    in_order_one = value(torch.rand(8, device=in_order.device))
    in_order.manual_seed(None)
    torch.manual_seed(5)
    again = value(torch.rand(8, device=in_order.device))
    assert torch.equal(again, expected) and not torch.equal(again, in_order_one)


def test_one_worker_in_order_does_not_change_another(in_order: pt.Worker, second_worker: pt.Worker) -> None:
    torch.manual_seed(5)
    expected = value(torch.rand(8, device=second_worker.device))
    in_order.manual_seed(1)
    torch.manual_seed(5)
    assert torch.equal(value(torch.rand(8, device=second_worker.device)), expected)


def dropped(w: Tensor, x: Tensor) -> Tensor:
    hidden = nn.functional.dropout(x @ w, 0.5)
    return nn.functional.dropout(hidden.tanh(), 0.3) * hidden


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_in_order_checkpoint_recomputes_the_same_dropout(use_reentrant: bool, in_order: pt.Worker) -> None:
    """The gradients are those without a checkpoint, and the generator goes on as if there had been none."""
    inputs, gradients, after = torch.randn(8, 3), [], []
    for checkpointed in (False, True):
        w, x = torch.ones(3, 2, requires_grad=True), pt.send(inputs, in_order).requires_grad_()
        w = pt.send(w, in_order)
        in_order.manual_seed(5)
        y = checkpoint(dropped, w, x, use_reentrant=use_reentrant) if checkpointed else dropped(w, x)
        torch.rand(4, device=in_order.device)  # between the two passes somebody else draws
        y.sum().backward()
        gradients.append((w.grad, x.grad))
        after.append(value(torch.rand(4, device=in_order.device)))
    for plain, again in zip(*gradients, strict=True):
        assert plain is not None and again is not None
        check_tensor(again, value(plain))
    assert torch.equal(after[0], after[1])


def test_in_order_a_forked_generator_is_given_back(in_order: pt.Worker) -> None:
    """`fork_rng` knows the device module `torch.lazy`, and with it the worker's generator."""
    in_order.manual_seed(5)
    expected = value(torch.rand(4, device=in_order.device))
    in_order.manual_seed(5)
    with torch.random.fork_rng(devices=[in_order.device], device_type="lazy"):
        torch.rand(9, device=in_order.device)
    assert torch.equal(value(torch.rand(4, device=in_order.device)), expected)
