"""Modules go to a worker in place: the same parameters, tied ones tied, with buffers and gradients (D4)."""

import copy
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from comparing import check_equal, check_tensor, held, value
from torch import Tensor, nn
from torch.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    get_total_norm,
    parameters_to_vector,
    parametrizations,
    parametrize,
    prune,
    vector_to_parameters,
)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

import ptrtensor as pt

NEAR = 1e-5
"""A module's kernels may add in another order in another process with other threads."""


def tensors_in(found: object) -> Iterator[Tensor]:
    """The tensors in nested tuples and lists."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for item in found:
            yield from tensors_in(item)


def step(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """One forward and backward; returns what came out."""
    outputs = list(tensors_in(module(*inputs)))
    loss = sum((output.square().mean() for output in outputs if output.requires_grad), torch.zeros(()))
    loss.backward()
    return [output.detach() for output in outputs]


def state(module: nn.Module) -> dict[str, Tensor | None]:
    """Parameters, their gradients, and buffers by name."""
    found: dict[str, Tensor | None] = {}
    for name, parameter in module.named_parameters():
        found[name] = parameter
        found[f"{name}.grad"] = parameter.grad
    return found | dict(module.named_buffers())


def identities(module: nn.Module) -> dict[str, int]:
    return {name: id(parameter) for name, parameter in module.named_parameters(remove_duplicate=False)}


# --- every module computes there what it computes here


class Tied(nn.Module):
    """A language model whose input and output share one matrix, held under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.output = nn.Linear(4, 7, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.output(self.hidden(self.embedding(tokens)).tanh())
        return result


class WithOddParts(nn.Module):
    """What a module may hold: nothing, constants, frozen and scalar parameters, lists of them, lone tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("absent", None)
        self.register_buffer("no_buffer", None)
        self.register_buffer("not_saved", torch.ones(3), persistent=False)
        self.register_buffer("steps", torch.tensor(0))
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.many = nn.ParameterList([torch.randn(3), torch.randn(3)])
        self.named = nn.ParameterDict({"a": torch.randn(3)})

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.steps, Tensor) and isinstance(self.not_saved, Tensor)
        self.steps += 1
        for parameter in self.many:
            x = x * parameter
        result: Tensor = (x + self.named["a"]) * self.scale + self.frozen + self.not_saved
        return result


def floats(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*shape),)


def integers(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(7, shape),)


def sequences(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: tuple(torch.randn(*shape) for shape in shapes)


def pruned() -> nn.Module:
    layer = nn.Linear(4, 3)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    return layer


Case = tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]

CASES: dict[str, Case] = {
    "Linear": (lambda: nn.Linear(4, 3), floats(5, 4)),
    "Bilinear": (lambda: nn.Bilinear(2, 3, 4), sequences((5, 2), (5, 3))),
    "MLP": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.LogSoftmax(1)), floats(5, 4)),
    "activations": (
        lambda: nn.Sequential(nn.GELU(), nn.SiLU(), nn.ELU(), nn.PReLU(), nn.Softplus(), nn.Hardswish(), nn.Mish()),
        lambda: (torch.randn(5, 4, requires_grad=True),),
    ),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1, stride=2), floats(2, 2, 8)),
    "Conv2d": (lambda: nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False), floats(2, 4, 6, 6)),
    "Conv2d with reflection": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), floats(1, 2, 5, 5)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2, dilation=2), floats(1, 1, 4, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), floats(2, 2, 4, 4)),
    "a small CNN": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
        floats(3, 1, 8, 8),
    ),
    "pooling": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear")),
        floats(2, 1, 8, 8),
    ),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), floats(6, 4)),
    "BatchNorm1d without statistics": (lambda: nn.BatchNorm1d(4, track_running_stats=False), floats(6, 4)),
    "BatchNorm with cumulative average": (lambda: nn.BatchNorm1d(4, momentum=None), floats(6, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), floats(2, 3, 4, 4)),
    "LayerNorm": (lambda: nn.LayerNorm([3, 4]), floats(2, 3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), floats(2, 4, 3)),
    "InstanceNorm": (
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        floats(2, 3, 5),
    ),
    "RMSNorm": (lambda: nn.RMSNorm(4), floats(3, 4)),
    "Embedding": (lambda: nn.Embedding(7, 3, padding_idx=0), integers(2, 5)),
    "Embedding with max_norm": (lambda: nn.Sequential(nn.Embedding(7, 3, max_norm=0.5), nn.Linear(3, 2)), integers(4)),
    "Embedding scaled by frequency": (lambda: nn.Embedding(7, 3, scale_grad_by_freq=True), integers(9)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(7, 3, mode="mean"), integers(3, 4)),
    "EmbeddingBag with offsets": (
        lambda: nn.EmbeddingBag(7, 3, mode="sum"),
        lambda: (torch.randint(7, (6,)), torch.tensor([0, 2, 2])),
    ),
    "RNN": (lambda: nn.RNN(3, 4, nonlinearity="relu"), floats(5, 2, 3)),
    "LSTM": (lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True), floats(2, 5, 3)),
    "LSTM with projection": (lambda: nn.LSTM(3, 4, proj_size=2), floats(5, 2, 3)),
    "GRU": (lambda: nn.GRU(3, 4, num_layers=2), floats(5, 2, 3)),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), floats(2, 3)),
    "GRUCell": (lambda: nn.GRUCell(3, 4), floats(2, 3)),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        sequences((2, 3, 4), (2, 5, 4), (2, 5, 4)),
    ),
    "MultiheadAttention with other sizes": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True, add_zero_attn=True),
        sequences((3, 2, 4), (5, 2, 3), (5, 2, 5)),
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True),
        floats(2, 3, 8),
    ),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(8, 2, dim_feedforward=16, dropout=0.0, norm_first=True),
        sequences((3, 2, 8), (4, 2, 8)),
    ),
    "Transformer": (
        lambda: nn.Transformer(8, 2, 1, 1, dim_feedforward=16, dropout=0.0, batch_first=True),
        sequences((2, 3, 8), (2, 4, 8)),
    ),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), floats(5, 4)),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), floats(5, 4)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(3, 3)), floats(5, 3)),
    "pruned": (pruned, floats(5, 4)),
    "tied": (Tied, integers(2, 3)),
    "odd parts": (WithOddParts, floats(3)),
    "complex": (lambda: nn.Linear(3, 2, dtype=torch.complex64), lambda: (torch.randn(4, 3, dtype=torch.complex64),)),
}


def as_real(outputs: list[Tensor]) -> list[Tensor]:
    return [torch.view_as_real(output) if output.is_complex() else output for output in outputs]


class Real(nn.Module):
    """Real numbers come out, so that their squares are a loss."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return as_real(list(tensors_in(self.inner(*inputs))))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_module_computes_the_same_there(case: Case, worker: pt.Worker) -> None:
    make, make_inputs = case
    torch.manual_seed(2)
    local, inputs = Real(make()), make_inputs()
    torch.manual_seed(2)
    module = Real(make())
    before = identities(module)
    assert pt.send(module, worker) is module

    there = tuple(pt.send(tensor, worker) for tensor in inputs)
    for _ in range(2):
        check_equal(step(module, there), step(local, inputs), worker, NEAR, "output")
    check_equal(state(module), state(local), worker, NEAR, "state")
    assert identities(module) == before

    module.eval()
    local.eval()
    with torch.no_grad():
        check_equal(module(*there), local(*inputs), worker, NEAR, "output of eval")

    assert pt.get(module) is module and identities(module) == before
    assert not any(pt.is_pointer(tensor) for tensor in state(module).values())
    with torch.no_grad():
        for got, expected in zip(module(*inputs), local(*inputs), strict=True):
            check_tensor(got, expected, NEAR)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda x, y: nn.functional.cross_entropy(x, y, label_smoothing=0.1),
    "cross_entropy with ignore_index": lambda x, y: nn.functional.cross_entropy(x, y, ignore_index=1),
    "nll_loss": lambda x, y: nn.functional.nll_loss(x.log_softmax(1), y),
    "mse_loss": lambda x, y: nn.functional.mse_loss(x[:, 0], y.float()),
    "l1_loss": lambda x, y: nn.functional.l1_loss(x[:, 0], y.float(), reduction="sum"),
    "smooth_l1_loss": lambda x, y: nn.functional.smooth_l1_loss(x[:, 0], y.float()),
    "huber_loss": lambda x, y: nn.functional.huber_loss(x[:, 0], y.float()),
    "bce": lambda x, y: nn.functional.binary_cross_entropy(x[:, 0].sigmoid(), (y > 1).float()),
    "bce with logits": lambda x, y: nn.functional.binary_cross_entropy_with_logits(
        x[:, 0], (y > 1).float(), pos_weight=torch.full((1,), 2.0, device=x.device)
    ),
    "kl_div": lambda x, y: nn.functional.kl_div(x.log_softmax(1), x.detach().softmax(1) * 0.5, reduction="batchmean"),
    "triplet": lambda x, y: nn.functional.triplet_margin_loss(x, x.flip(0) + 1, x * 2),
    "cosine": lambda x, y: nn.functional.cosine_embedding_loss(x, x.flip(0), (y > 1).float() * 2 - 1),
    "gaussian": lambda x, y: nn.functional.gaussian_nll_loss(x, x.detach() + 1, x.detach().square() + 0.1),
    "multi_margin": lambda x, y: nn.functional.multi_margin_loss(x, y),
    "hinge": lambda x, y: nn.functional.hinge_embedding_loss(x[:, 0], (y > 1).float() * 2 - 1),
    "ctc": lambda x, y: torch.ctc_loss(x.unsqueeze(1).log_softmax(2), y[1:3].unsqueeze(0), (6,), (2,)),
    "ctc with lengths in local tensors": lambda x, y: nn.functional.ctc_loss(
        x.unsqueeze(1).log_softmax(2), y[1:3].unsqueeze(0), torch.tensor([6]), torch.tensor([2])
    ),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
def test_losses(loss: Callable[[Tensor, Tensor], Tensor], worker: pt.Worker) -> None:
    scores, target = torch.randn(6, 3, requires_grad=True), torch.tensor([0, 1, 2, 2, 1, 0])
    there, target_there = pt.send(scores, worker), pt.send(target, worker)
    expected, got = loss(scores, target), loss(there, target_there)
    check_tensor(got, expected, NEAR)
    expected.backward()
    got.backward()
    assert there.grad is not None and scores.grad is not None
    check_tensor(there.grad, scores.grad, NEAR)


# --- the ways there and back


Way = Callable[[nn.Module, pt.Worker], nn.Module]

WAYS: dict[str, tuple[Way, Callable[[nn.Module], nn.Module]]] = {
    "send and get": (pt.send, pt.get),
    "to and cpu": (lambda module, worker: module.to(worker.device), lambda module: module.cpu()),
    "to and to": (lambda module, worker: module.to(worker.device), lambda module: module.to("cpu")),
    "send and cpu": (pt.send, lambda module: module.cpu()),
    "to and get": (lambda module, worker: module.to(worker.device), pt.get),
}


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def ways(request: pytest.FixtureRequest) -> tuple[Way, Callable[[nn.Module], nn.Module]]:
    found: tuple[Way, Callable[[nn.Module], nn.Module]] = request.param
    return found


def with_gradients(seed: int = 3) -> nn.Module:
    """The same module whenever it is made from the same seed."""
    torch.manual_seed(seed)
    module = nn.Sequential(Tied(), nn.BatchNorm1d(3))
    step(module, (torch.randint(7, (4, 3)),))
    return module


def test_everything_goes_there_and_comes_back(
    ways: tuple[Way, Callable[[nn.Module], nn.Module]], worker: pt.Worker
) -> None:
    there, back = ways
    module = with_gradients()
    expected = {name: None if found is None else value(found).clone() for name, found in state(module).items()}
    before = identities(module)
    assert there(module, worker) is module
    assert identities(module) == before and module[0].output.weight is module[0].embedding.weight  # type: ignore[index]
    for name, found in state(module).items():
        assert pt.is_pointer(found) and found.location is worker, name
    assert back(module) is module
    assert identities(module) == before and module[0].output.weight is module[0].embedding.weight  # type: ignore[index]
    for name, found in state(module).items():
        wanted = expected[name]
        assert found is not None and wanted is not None and not pt.is_pointer(found), name
        assert isinstance(found, nn.Parameter) == found.requires_grad, name
        check_tensor(found.detach(), wanted, at=name)
    assert len(list(module.parameters())) == 5, "the tied ones are one"


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))


@pytest.mark.parametrize("go", [lambda m, w: m.to(w.device), pt.send], ids=["to", "send"])
def test_a_parameter_without_dimensions_goes_there(
    go: Callable[[nn.Module, pt.Worker], nn.Module], virtual_worker: pt.VirtualWorker
) -> None:
    """Also where nothing was inferred before: what is made of it for that holds on to it no longer."""
    model = Scaled()
    scale = model.scale
    assert (torch.ones(2, device=virtual_worker.device).double() * scale).tolist() == [2, 2]
    go(model, virtual_worker)
    assert model.scale is scale and pt.is_pointer(scale) and scale.item() == 2


def test_hooks_and_attributes_of_parameters_stay(worker: pt.Worker) -> None:
    """Who masks gradients by a hook, or marks a parameter, need not do it again after send() and get().

    Torch's own `Module.to` exchanges tensors with all that hangs on them, so there they must be attached anew.
    """
    module = nn.Linear(2, 2)
    calls: list[str] = []
    module.weight.register_hook(lambda gradient: gradient * 0)
    module.weight.register_post_accumulate_grad_hook(lambda parameter: calls.append("accumulated"))
    marked: Any = module.weight
    marked.no_weight_decay = True
    for place in (worker, None):
        if place is None:
            pt.get(module)
        else:
            pt.send(module, place)
        module.zero_grad()
        step(module, (torch.ones(1, 2) if place is None else torch.ones(1, 2, device=place.device),))
        gradient = module.weight.grad
        assert gradient is not None and value(gradient).count_nonzero() == 0, "the hook masks the gradient"
        assert calls.pop() == "accumulated" and not calls
        assert marked.no_weight_decay


def output_alive(module: nn.Module, x: Tensor) -> object:
    return module(x)


def view_alive(module: nn.Module, x: Tensor) -> object:
    return next(iter(module[1].parameters())).view(-1)  # type: ignore[index]


def weakly_referenced(module: nn.Module, x: Tensor) -> object:
    return weakref.ref(module[0].weight)  # type: ignore[index]


@pytest.mark.parametrize("verb", ["send", "get", "move", "to", "cpu", "double"])
@pytest.mark.parametrize("hold", [output_alive, view_alive, weakly_referenced])
def test_parameters_that_something_holds_go_or_all_stay(
    hold: Callable[[nn.Module, Tensor], object], verb: str, worker: pt.Worker, second_worker: pt.Worker
) -> None:
    """An output, a view or a weak reference may stand in the way: our own verbs do all or nothing then.

    Torch's own `Module.to` stops half-way when a parameter cannot be exchanged; no value may be lost even so.
    """
    verbs: dict[str, Callable[[nn.Module], nn.Module]] = {
        "send": lambda m: pt.send(m, worker),
        "get": pt.get,
        "move": lambda m: pt.move(m, second_worker),
        "to": lambda m: m.to(second_worker.device),
        "cpu": lambda m: m.cpu(),
        "double": lambda m: m.double(),
    }
    module, x = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 2)), torch.randn(2, 1, 3)
    if verb != "send":
        pt.send(module, worker)
        x = pt.send(x, worker)
    before = [value(parameter) for parameter in module.parameters()]
    held_by = hold(module, x)
    try:
        verbs[verb](module)
    except (RuntimeError, pt.PtrTensorError) as error:
        if verb in ("send", "get", "move"):
            assert "weight" in str(error), "which one stands in the way"
            with torch.no_grad():
                module(x)  # all of it is where it was
    for parameter, expected in zip(module.parameters(), before, strict=True):
        assert torch.equal(value(parameter).float(), expected), "nothing is lost"
    del held_by


def test_a_refused_module_forgets_that_it_was_to_go(worker: pt.Worker) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(1))
    held = weakref.ref(module[0].weight)
    with pytest.raises(pt.UnsupportedOpError, match=r"0\.weight"):
        pt.send(module, worker)
    del held
    assert not pt.is_pointer(module(torch.ones(1, 2)))
    assert not any(pt.is_pointer(parameter) for parameter in module.parameters())


def test_a_tensor_that_cannot_be_sent_stays_and_so_does_what_follows(worker: pt.Worker) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Module(), nn.Linear(2, 1))
    module[1].register_buffer("sparse", torch.ones(2).to_sparse())
    with pytest.raises(pt.UnsupportedOpError, match="sparse"):
        pt.send(module, worker)
    there = [name for name, tensor in module.state_dict().items() if pt.is_pointer(tensor)]
    assert there == ["0.weight", "0.bias"]
    assert not any(pt.is_pointer(parameter) for parameter in pt.get(module).parameters())


def test_a_module_that_came_back_left_nothing(worker: pt.Worker) -> None:
    before = held(worker)
    module = with_gradients()
    pt.get(pt.send(module, worker))
    assert held(worker) == before


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW], ids=lambda c: c.__name__)
def test_an_optimizer_made_before_goes_on_working(
    optimizer: Callable[..., torch.optim.Optimizer],
    ways: tuple[Way, Callable[[nn.Module], nn.Module]],
    worker: pt.Worker,
) -> None:
    there, _ = ways
    inputs = torch.randint(7, (4, 3))

    def trained(module: nn.Module, tokens: Tensor, optimizer: torch.optim.Optimizer) -> nn.Module:
        for _ in range(3):
            optimizer.zero_grad()
            step(module, (tokens,))
            optimizer.step()
        return module

    torch.manual_seed(3)
    local = Tied()
    trained(local, inputs, optimizer(local.parameters(), lr=0.1))
    torch.manual_seed(3)
    module = Tied()
    made_before = optimizer(module.parameters(), lr=0.1)
    there(module, worker)
    trained(module, pt.send(inputs, worker), made_before)
    check_equal(state(module), state(local), worker, NEAR)


def test_an_optimizer_without_state_works_there_and_back_and_there(worker: pt.Worker) -> None:
    inputs = torch.randn(5, 4)
    torch.manual_seed(3)
    local = nn.Linear(4, 2)
    torch.manual_seed(3)
    module = nn.Linear(4, 2)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (local, module)]
    for place in range(4):
        if place % 2:
            pt.get(module)
        else:
            pt.send(module, worker)
        given = inputs if place % 2 else pt.send(inputs, worker)
        for each, optimizer, x in ((local, optimizers[0], inputs), (module, optimizers[1], given)):
            optimizer.zero_grad()
            step(each, (x,))
            optimizer.step()
    for got, expected in zip(module.parameters(), local.parameters(), strict=True):
        assert not pt.is_pointer(got)
        check_tensor(got, expected, NEAR)


def test_state_left_behind_is_named_with_the_cure(worker: pt.Worker, second_worker: pt.Worker) -> None:
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    step(module, (torch.randn(4, 3),))
    optimizer.step()
    for place, others in ((worker, ""), (second_worker, worker.id)):
        if others:
            pt.move(module, place)
        else:
            pt.send(module, place)
        with pytest.raises(pt.WorkerMismatchError, match="(?s)optimizer.*state"):
            optimizer.step()
            place.synchronize()
        optimizer = torch.optim.Adam(module.parameters())
        optimizer.step()


def test_a_module_moves(worker: pt.Worker, second_worker: pt.Worker) -> None:
    module = with_gradients()
    expected = {name: None if found is None else value(found).clone() for name, found in state(module).items()}
    before = identities(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    pt.send(module, worker)
    assert pt.move(module, second_worker) is module and identities(module) == before
    for name, found in state(module).items():
        wanted = expected[name]
        assert pt.is_pointer(found) and found.location is second_worker and wanted is not None
        check_tensor(found.detach(), wanted, at=name)
    optimizer.step()
    second_worker.synchronize()


def test_to_takes_place_and_dtype_and_goes_from_worker_to_worker(worker: pt.Worker, second_worker: pt.Worker) -> None:
    module = with_gradients()
    before = identities(module)
    ways: list[tuple[Callable[[], nn.Module], pt.Worker, torch.dtype]] = [
        (lambda: module.to(worker.device, torch.float64), worker, torch.float64),
        (lambda: module.to(second_worker.device), second_worker, torch.float64),
        (lambda: module.to(torch.zeros(1, device=worker.device)), worker, torch.float32),
    ]
    for way, place, dtype in ways:
        assert way() is module and identities(module) == before
        for parameter in module.parameters():
            for tensor in (parameter, parameter.grad):
                assert pt.is_pointer(tensor) and tensor.location is place and tensor.dtype == dtype


def test_send_leaves_what_is_there_already(worker: pt.Worker) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    pt.send(module[0], worker)
    weight = module[0].weight
    name = pt.is_pointer(weight) and weight.id_at_location
    pt.send(module, worker)
    weight = module[0].weight
    assert pt.is_pointer(weight) and weight.id_at_location == name
    assert pt.is_pointer(module[1].running_mean)


def test_a_part_of_a_module_may_be_elsewhere(worker: pt.Worker, second_worker: pt.Worker) -> None:
    """Split learning: the first half at one worker, the second at another, the loss here."""
    torch.manual_seed(3)
    local = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module = copy.deepcopy(local)
    pt.send(module[0], worker)
    pt.send(module[2], second_worker)
    x = torch.randn(5, 3)
    hidden = pt.move(module[1](module[0](pt.send(x, worker))), second_worker)
    pt.get(module[2](hidden)).square().mean().backward()
    step(local, (x,))
    for (name, got), expected in zip(module.named_parameters(), local.parameters(), strict=True):
        assert got.grad is not None and expected.grad is not None
        assert pt.is_pointer(got.grad) and got.grad.location is (worker if name[0] == "0" else second_worker)
        check_tensor(got.grad, expected.grad, NEAR)


@pytest.mark.parametrize(
    ("convert", "dtype"),
    [
        (lambda module: module.double(), torch.float64),
        (lambda module: module.half(), torch.float16),
        (lambda module: module.bfloat16(), torch.bfloat16),
        (lambda module: module.to(torch.float64), torch.float64),
        (lambda module: module.double().float(), torch.float32),
        (lambda module: module.type(torch.float64), torch.float64),
    ],
    ids=["double", "half", "bfloat16", "to", "double and float", "type"],
)
def test_dtypes_change_in_place(
    convert: Callable[[nn.Module], nn.Module], dtype: torch.dtype, worker: pt.Worker
) -> None:
    local, module = with_gradients(), pt.send(with_gradients(), worker)
    before = identities(module)
    for each in (local, module):
        assert convert(each) is each
    assert identities(module) == before
    check_equal(state(module), state(local), worker)
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}


def test_requires_grad_and_mode_and_zero_grad(worker: pt.Worker) -> None:
    module = pt.send(with_gradients(), worker)
    before = identities(module)
    module.zero_grad(set_to_none=False)
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert all(value(gradient).count_nonzero() == 0 for gradient in gradients) and len(gradients) == 5
    module.zero_grad()
    assert all(parameter.grad is None for parameter in module.parameters())
    module.requires_grad_(False).eval()
    assert not any(parameter.requires_grad for parameter in module.parameters()) and identities(module) == before


def test_apply_initialises_there(worker: pt.Worker) -> None:
    def fill(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 0.5)
            nn.init.zeros_(module.bias)

    module = pt.send(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), worker)
    module.apply(fill)
    assert value(module(pt.send(torch.ones(1, 2), worker))).tolist() == [[1.0]]


def test_to_empty_makes_parameters_there(worker: pt.Worker) -> None:
    module = nn.Linear(3, 2, device="meta").to_empty(device=worker.device)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    assert value(module(pt.send(torch.ones(1, 3), worker))).tolist() == [[3, 3]]


def test_a_module_with_a_graph_in_flight_says_so(worker: pt.Worker) -> None:
    module = nn.Linear(3, 2)
    loss = module(torch.randn(4, 3)).sum()
    pt.send(module, worker)
    with pytest.raises((RuntimeError, pt.PtrTensorError)):
        loss.backward()


def test_a_module_mixed_with_local_data_says_so(worker: pt.Worker) -> None:
    module = pt.send(nn.Linear(3, 2), worker)
    with pytest.raises(pt.WorkerMismatchError, match=r"(?s)linear|addmm.*send\(\)"):
        module(torch.randn(4, 3))
    with pytest.raises(pt.WorkerMismatchError, match=r"(?s)linear|addmm.*send\(\)"):
        nn.Linear(3, 2)(pt.send(torch.randn(4, 3), worker))


# --- state dicts, copies, files


def test_a_state_dict_holds_pointers_and_loads(worker: pt.Worker, second_worker: pt.Worker) -> None:
    source, module = with_gradients(), pt.send(with_gradients(), worker)
    saved = module.state_dict()
    assert all(pt.is_pointer(tensor) for tensor in saved.values()) and list(saved) == list(source.state_dict())

    others = [with_gradients(4), pt.send(with_gradients(4), worker), pt.send(with_gradients(4), second_worker)]
    for other in others:
        before = identities(other)
        assert str(other.load_state_dict(saved)) == "<All keys matched successfully>"
        assert identities(other) == before
        for name, tensor in other.state_dict().items():
            check_tensor(tensor, source.state_dict()[name].detach(), at=name)

    module.load_state_dict(with_gradients(4).state_dict())
    assert value(module[0].hidden.weight).tolist() != source[0].hidden.weight.tolist()  # type: ignore[index]


def test_a_state_dict_can_be_assigned(worker: pt.Worker) -> None:
    source = pt.send(nn.Linear(3, 2), worker)
    module = nn.Linear(3, 2, device="meta")
    module.load_state_dict(source.state_dict(), assign=True)
    assert pt.is_pointer(module.weight) and isinstance(module.weight, nn.Parameter)
    check_tensor(module.weight, nn.Parameter(value(source.weight)))


def test_deepcopy_copies_at_the_worker(worker: pt.Worker) -> None:
    local, module = with_gradients(), pt.send(with_gradients(), worker)
    twin = copy.deepcopy(module)
    check_equal(state(twin), state(copy.deepcopy(local)), worker)
    assert twin[0].output.weight is twin[0].embedding.weight  # type: ignore[index]
    names = [t.id_at_location for each in (module, twin) for t in state(each).values() if pt.is_pointer(t)]
    assert len(names) == len(set(names))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert value(next(module.parameters())).count_nonzero() > 0


def saved_and_loaded(module: nn.Module, how: str) -> dict[str, Tensor]:
    file = io.BytesIO()
    if how == "pickle":
        loaded: Any = pickle.loads(pickle.dumps(module))
        return dict(loaded.state_dict())
    if how == "save of the module":
        torch.save(module, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        return dict(loaded.state_dict())
    torch.save(module.state_dict(), file)
    file.seek(0)
    found: dict[str, Tensor] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize("how", ["pickle", "save of the module", "save of the state_dict"])
def test_files_hold_values(how: str, worker: pt.Worker) -> None:
    source, module = with_gradients(), pt.send(with_gradients(), worker)
    loaded = saved_and_loaded(module, how)
    assert list(loaded) == list(source.state_dict())
    for name, expected in source.state_dict().items():
        assert not pt.is_pointer(loaded[name]) and not isinstance(loaded[name], pt.PointerTensor)
        assert torch.equal(loaded[name], expected), name
    fresh = pt.send(with_gradients(4), worker)
    fresh.load_state_dict(loaded)
    assert torch.equal(value(fresh[0].hidden.weight), source[0].hidden.weight)  # type: ignore[index]


def test_a_pickled_parameter_is_a_parameter(worker: pt.Worker) -> None:
    for requires_grad in (True, False):
        parameter = nn.Parameter(pt.send(torch.ones(2), worker), requires_grad=requires_grad)
        loaded = pickle.loads(pickle.dumps(parameter))
        assert type(loaded) is nn.Parameter and loaded.requires_grad is requires_grad and loaded.tolist() == [1, 1]


def test_an_optimizers_state_dict_travels(worker: pt.Worker) -> None:
    inputs = torch.randn(5, 3)
    torch.manual_seed(3)
    local = nn.Linear(3, 2)
    local_optimizer = torch.optim.Adam(local.parameters(), lr=0.1)
    step(local, (inputs,))
    local_optimizer.step()

    module = nn.Linear(3, 2)
    module.load_state_dict(local.state_dict())
    pt.send(module, worker)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    optimizer.load_state_dict(copy.deepcopy(local_optimizer.state_dict()))  # torch would share the step counts
    for each, each_optimizer, x in ((local, local_optimizer, inputs), (module, optimizer, pt.send(inputs, worker))):
        each_optimizer.zero_grad()
        step(each, (x,))
        each_optimizer.step()
    check_equal([p.detach() for p in module.parameters()], [p.detach() for p in local.parameters()], worker, NEAR)

    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.allclose(loaded["state"][0]["exp_avg"], local_optimizer.state[local.weight]["exp_avg"])


# --- the helpers of torch.nn.utils


def test_a_vector_of_all_parameters_goes_both_ways(worker: pt.Worker) -> None:
    local = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    module = pt.send(copy.deepcopy(local), worker)
    before = identities(module)
    vector = parameters_to_vector(module.parameters())
    check_tensor(vector.detach(), parameters_to_vector(local.parameters()).detach())
    for each in (local, module):
        vector_to_parameters(parameters_to_vector(each.parameters()).detach() * 2 + 1, each.parameters())
    check_equal(state(module), state(local), worker)
    assert identities(module) == before
    x = torch.randn(4, 3)
    check_equal(step(module, (pt.send(x, worker),)), step(local, (x,)), worker, NEAR)


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("norm", [2.0, float("inf"), 1.0])
def test_gradients_are_clipped(norm: float, foreach: bool | None, worker: pt.Worker) -> None:
    local, module = with_gradients(), pt.send(with_gradients(), worker)
    totals = [clip_grad_norm_(each.parameters(), 0.01, norm_type=norm, foreach=foreach) for each in (module, local)]
    check_tensor(totals[0], totals[1], NEAR)
    check_equal(state(module), state(local), worker, NEAR)
    clip_grad_value_(module.parameters(), 1e-4, foreach=foreach)
    clip_grad_value_(local.parameters(), 1e-4, foreach=foreach)
    check_equal(state(module), state(local), worker, NEAR)
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert float(get_total_norm(gradients)) > 0


def test_clipping_with_foreach_is_refused_by_torchs_own_list(worker: pt.Worker) -> None:
    module = pt.send(with_gradients(), worker)
    with pytest.raises(RuntimeError, match="foreach=True.*lazy"):
        clip_grad_norm_(module.parameters(), 0.01, foreach=True)


@pytest.mark.parametrize("batch_first", [True, False])
def test_padded_sequences_are_packed(batch_first: bool, worker: pt.Worker) -> None:
    rows = [torch.randn(length, 3) for length in (2, 5, 4)]
    lengths = torch.tensor([2, 5, 4])
    torch.manual_seed(3)
    local = nn.LSTM(3, 4, batch_first=batch_first)
    module = pt.send(copy.deepcopy(local), worker)

    def run(lstm: nn.LSTM, sequences: list[Tensor], lengths: Tensor) -> list[Tensor]:
        padded = pad_sequence(sequences, batch_first=batch_first)
        packed = pack_padded_sequence(padded, lengths, batch_first=batch_first, enforce_sorted=False)
        output, (hidden, cell) = lstm(packed)
        unpacked, sizes = pad_packed_sequence(output, batch_first=batch_first)
        (unpacked.square().sum() + hidden.sum()).backward()
        assert sizes.tolist() == lengths.tolist()
        return [unpacked.detach(), hidden.detach(), cell.detach()]

    for given in (lengths, lengths - 1):  # the second has the same metadata and other values
        expected = run(local, rows, given)
        got = run(module, [pt.send(row, worker) for row in rows], given)
        check_equal(got, expected, worker, NEAR)
        check_equal(state(module), state(local), worker, NEAR)


def test_a_parametrization_can_be_registered_there(worker: pt.Worker) -> None:
    class Symmetric(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.triu() + x.triu(1).mT

    local = nn.Linear(3, 3)
    module = pt.send(copy.deepcopy(local), worker)
    for each in (local, module):
        parametrize.register_parametrization(each, "weight", Symmetric())
    x = torch.randn(2, 3)
    check_equal(step(module, (pt.send(x, worker),)), step(local, (x,)), worker, NEAR)
    check_equal(state(module), state(local), worker, NEAR)
    parametrize.remove_parametrizations(module, "weight")
    assert pt.is_pointer(module.weight) and isinstance(module.weight, nn.Parameter)


def test_averaged_models(worker: pt.Worker) -> None:
    averages = []
    inputs = torch.randn(4, 3)
    for there in (False, True):
        torch.manual_seed(3)
        module = nn.Linear(3, 2)
        x = inputs
        if there:
            pt.send(module, worker)
            x = pt.send(inputs, worker)
        average = torch.optim.swa_utils.AveragedModel(
            module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            step(module, (x,))
            optimizer.step()
            average.update_parameters(module)
        averages.append([parameter.detach() for parameter in average.parameters()])
    check_equal(averages[1], averages[0], worker, NEAR)
