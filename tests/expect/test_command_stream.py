"""What crosses the wire: the exact stream of commands of small programs, and what whole training steps cost.

The expected texts are written by ``EXPECTTEST_ACCEPT=1 pytest tests/expect``; read the difference before keeping it.
A line is ``$result = operation($arguments)`` without the constants; of several results the first is named.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import fresh_id
from expecttest import assert_expected_inline
from torch import Tensor, nn

import ptrtensor as pt
from ptrtensor.api import ConnectedWorker
from ptrtensor.transport.inprocess import InProcessTransport
from ptrtensor.transport.recording import RecordingTransport
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session


class Recorded:
    """A worker in this process, and what is sent to it."""

    def __init__(self) -> None:
        self.session = Session(Identity("bob", __version__, str(torch.__version__)))
        self.transport = RecordingTransport(InProcessTransport(self.session.handle))
        self.worker = ConnectedWorker(fresh_id("recorded"), self.transport)
        self.worker.client._flusher.stop()  # it would send the end of a batch at a moment of its own
        self.log()

    def send(self, tensor: Tensor) -> Tensor:
        """A pointer, with nothing in the log."""
        pointer = pt.send(tensor, self.worker)
        self.log()
        return pointer

    def log(self) -> str:
        """What was sent since; the names of a drop in order, whichever way Python let them go."""
        self.worker.client.flush()
        return "\n".join(in_order(line) for line in self.transport.log().splitlines())

    def commands(self) -> list[str]:
        """The operations sent since, in order, without drops."""
        return [line.split(" = ")[-1].split("(")[0] for line in self.log().splitlines() if "aten::" in line]

    @property
    def requests(self) -> list[str]:
        """The kinds of all messages that are not batches."""
        return [
            type(message).__name__ for message in self.transport.messages if not isinstance(message, messages.Batch)
        ]


def in_order(line: str) -> str:
    verb, *names = line.split()
    return " ".join([verb, *sorted(names, key=lambda name: int(name[1:]))]) if verb == "drop" else line


@pytest.fixture
def bob() -> Iterator[Recorded]:
    recorded = Recorded()
    yield recorded
    recorded.worker.close()


def test_a_chain(bob: Recorded) -> None:
    x = bob.send(torch.ones(3))
    y = ((x + 1) * 2 - x).relu()
    assert_expected_inline(
        bob.log(),
        """\
$2 = aten::add.Tensor($1, 1)
$3 = aten::mul.Tensor($2, 2)
$4 = aten::sub.Tensor($3, $1)
$5 = aten::relu($4)
drop $2 $3 $4""",
    )
    del y
    assert_expected_inline(bob.log(), """drop $5""")


def test_sending_and_fetching(bob: Recorded) -> None:
    x = pt.send(torch.ones(3), bob.worker)
    y = x * 3
    assert y.sum().item() == 9.0
    assert x.tolist() == [1.0, 1.0, 1.0]
    pt.get(y)
    assert_expected_inline(
        bob.log(),
        """\
Put
$2 = aten::mul.Tensor($1, 3)
$3 = aten::sum($2)
Fetch
drop $3
Fetch
Fetch
drop $2""",
    )


def test_metadata_asks_nobody(bob: Recorded) -> None:
    x = bob.send(torch.ones(3, 4))
    seen = (x.shape, x.dtype, x.stride(), x.numel(), x.device, x.is_contiguous(), x.requires_grad, len(x), repr(x))
    assert len(seen) == 9
    assert_expected_inline(bob.log(), """""")


def test_detach_sends_nothing(bob: Recorded) -> None:
    x = bob.send(torch.ones(3)).requires_grad_()
    y = x.detach()
    z = y.data
    assert pt.is_pointer(x) and pt.is_pointer(y) and pt.is_pointer(z)
    assert x.id_at_location == y.id_at_location == z.id_at_location
    assert_expected_inline(bob.log(), """""")
    del x, y
    assert_expected_inline(bob.log(), """""")
    del z
    assert_expected_inline(bob.log(), """drop $1""")


def test_views(bob: Recorded) -> None:
    x = bob.send(torch.ones(4, 6))
    views = [x.t(), x[1], x[:, ::2], x.view(24), x.unsqueeze(0), x.expand(2, 4, 6), *x.split(2)]
    assert len(views) == 8
    assert_expected_inline(
        bob.log(),
        """""",
    )


def test_in_place(bob: Recorded) -> None:
    x, y = bob.send(torch.ones(4)), bob.send(torch.ones(4))
    x += 1
    x.mul_(y).clamp_(0, 2)
    x[1] = 5.0
    x[2:] = y[2:]
    torch.add(x, y, out=y)
    y.zero_()
    assert_expected_inline(
        bob.log(),
        """\
aten::add_.Tensor($1, 1)
aten::mul_.Tensor($1, $2)
aten::clamp_($1, 0, 2)
$3 = aten::scalar_tensor()
aten::copy_($1[1:  / ], $3)
aten::copy_($1[2: 2 / 1], $2[2: 2 / 1])
aten::add.out($1, $2, $2)
aten::zero_($2)
drop $3""",
    )


def test_changes_of_metadata_take_a_new_name(bob: Recorded) -> None:
    """A detached alias shares the name and must keep its own shape."""
    x = bob.send(torch.ones(4, 6))
    x.t_()
    x.unsqueeze_(0)
    assert_expected_inline(
        bob.log(),
        """\
$2 = aten::alias($1)
aten::t_($2)
$3 = aten::alias($2)
aten::unsqueeze_($3)
drop $1 $2""",
    )


def test_indices_from_here_are_sent_first(bob: Recorded) -> None:
    x = bob.send(torch.ones(4, 6))
    picked = x[torch.tensor([0, 2])] + torch.tensor(1.5)
    assert picked.shape == (2, 6)
    assert_expected_inline(
        bob.log(),
        """\
Put
$2 = aten::index.Tensor($1, $3)
drop $3
Put
$4 = aten::add.Tensor($2, $5)
drop $2 $5""",
    )


def test_numbers_travel_with_the_command(bob: Recorded) -> None:
    x = bob.send(torch.ones(3))
    for number in (0.1, 0.2, 0.3):
        x.add_(number)
    assert_expected_inline(
        bob.log(),
        """\
aten::add_.Tensor($1, 0.1)
aten::add_.Tensor($1, 0.2)
aten::add_.Tensor($1, 0.3)""",
    )
    assert bob.worker.stats()["cache_misses"] == 1


def test_random_operations_carry_a_seed_that_is_not_shown(bob: Recorded) -> None:
    x = torch.randn(3, device=bob.worker.device)
    y = nn.functional.dropout(x, 0.5)
    assert y.shape == (3,)
    assert_expected_inline(
        bob.log(),
        """\
$1 = aten::randn()
$2 = aten::native_dropout($1)
drop $3""",
    )


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.unique(x),
        lambda x: torch.equal(x, x),
    ],
    ids=["nonzero", "mask", "unique", "equal"],
)
def test_what_depends_on_values_waits_once(bob: Recorded, operation: Callable[[Tensor], object]) -> None:
    x = bob.send(torch.tensor([1.0, 0.0, 2.0]))
    for _ in range(3):
        waits = bob.worker.client.waits.count
        operation(x)
        assert bob.worker.client.waits.count == waits + 1


def test_what_depends_on_values(bob: Recorded) -> None:
    x = bob.send(torch.tensor([1.0, 0.0, 2.0]))
    assert x.nonzero().shape == (2, 1)
    assert_expected_inline(
        bob.log(),
        """\
$2 = aten::nonzero($1)
Describe
drop $2""",
    )


# --- training steps


def perceptron(worker: pt.Worker) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    return pt.send(model, worker)


Step = Callable[[], Tensor]


def training(bob: Recorded, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Step:
    """One step of training on data at the worker; gives the loss."""
    model = perceptron(bob.worker)
    data, target = pt.send(torch.randn(5, 8), bob.worker), pt.send(torch.tensor([0, 1, 2, 1, 0]), bob.worker)
    optimizer = make(list(model.parameters()))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "sgd with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "adam, foreach": lambda parameters: torch.optim.Adam(parameters, lr=0.1, foreach=True),
    "adamw, foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
}

COMMANDS = {"sgd": 18, "sgd with momentum": 26, "adam": 42, "adam, foreach": 21, "adamw, foreach": 22}
"""Commands in one step, drops aside. More is a step back: find out what was sent twice."""


def test_a_step_of_sgd(bob: Recorded) -> None:
    step = training(bob, OPTIMIZERS["sgd"])
    for _ in range(2):
        step()
    bob.log()
    step()
    assert_expected_inline(
        bob.log(),
        """\
$37 = aten::addmm($2, $5, $1[0: 8 4 / 1 8])
$38 = aten::relu($37)
$39 = aten::addmm($4, $38, $3[0: 4 3 / 1 4])
$40 = aten::_log_softmax($39)
$41 = aten::nll_loss_forward($40, $6)
$43 = aten::ones_like($41)
$44 = aten::nll_loss_backward($43, $40, $6, $42)
$45 = aten::_log_softmax_backward_data($44, $40)
$46 = aten::mm($45, $3)
$47 = aten::mm($45[0: 3 5 / 1 3], $38)
$48 = aten::sum.dim_IntList($45)
$49 = aten::threshold_backward($46, $38, 0)
$50 = aten::mm($49[0: 4 5 / 1 4], $5)
$51 = aten::sum.dim_IntList($49)
aten::add_.Tensor($1, $50, -0.1)
aten::add_.Tensor($2, $51[0: 4 / 1], -0.1)
aten::add_.Tensor($3, $47, -0.1)
aten::add_.Tensor($4, $48[0: 3 / 1], -0.1)
drop $32 $33 $35 $36 $37 $38 $39 $40 $41 $42 $43 $44 $45 $46 $49""",
    )


def test_a_step_of_adam_foreach(bob: Recorded) -> None:
    step = training(bob, OPTIMIZERS["adam, foreach"])
    for _ in range(2):
        step()
    bob.log()
    step()
    assert_expected_inline(
        "\n".join(bob.commands()),
        """\
aten::addmm
aten::relu
aten::addmm
aten::_log_softmax
aten::nll_loss_forward
aten::ones_like
aten::nll_loss_backward
aten::_log_softmax_backward_data
aten::mm
aten::mm
aten::sum.dim_IntList
aten::threshold_backward
aten::mm
aten::sum.dim_IntList
aten::_foreach_lerp_.Scalar
aten::_foreach_mul_.Scalar
aten::_foreach_addcmul_.Scalar
aten::_foreach_sqrt
aten::_foreach_div_.ScalarList
aten::_foreach_add_.Scalar
aten::_foreach_addcdiv_.ScalarList""",
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_commands_and_waits_of_a_step(bob: Recorded, optimizer: str) -> None:
    step = training(bob, OPTIMIZERS[optimizer])
    for _ in range(3):
        step()
    bob.log()
    waits, requests = bob.worker.client.waits.count, len(bob.requests)
    for _ in range(4):
        step()
        assert len(bob.commands()) == COMMANDS[optimizer]
    assert bob.worker.client.waits.count == waits
    assert len(bob.requests) == requests, "only batches"


def test_reading_the_loss_is_one_wait(bob: Recorded) -> None:
    step = training(bob, OPTIMIZERS["sgd"])
    for _ in range(3):
        waits = bob.worker.client.waits.count
        assert step().item() > 0
        assert bob.worker.client.waits.count == waits + 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_hundred_steps_infer_nothing_new(bob: Recorded, optimizer: str) -> None:
    """Adam's numbers change with every step: in the key they would fill the cache (D6)."""
    step = training(bob, OPTIMIZERS[optimizer])
    for _ in range(3):
        step()
    entries, misses = len(bob.worker.cache), bob.worker.cache.misses
    for _ in range(200):
        step()
    assert (len(bob.worker.cache), bob.worker.cache.misses) == (entries, misses)


def test_the_store_is_flat_over_many_steps(bob: Recorded) -> None:
    step = training(bob, OPTIMIZERS["adam, foreach"])
    for _ in range(3):
        step()
    bob.log()
    objects = len(bob.session.store.objects)
    for _ in range(20):
        step()
    bob.log()
    assert len(bob.session.store.objects) == objects
