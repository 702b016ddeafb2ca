"""Mixed precision: `bob.autocast()` is `torch.autocast` of the worker's kind of device, for pointers of that worker."""

import copy
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import SAME_BITS, check_equal, check_tensor, value
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ptrtensor as pt
from ptrtensor.tensor.autocast import Policy, policies

BFLOAT16 = torch.bfloat16


def product(tensor: Tensor) -> torch.dtype:
    return (tensor @ tensor).dtype


# --- the table


class Casts(TorchDispatchMode):
    """Notes to what is cast before the first other operation, and ends there."""

    made: set[torch.dtype]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten._to_copy.default:
            raise StopIteration
        self.made.add(kwargs["dtype"])
        return func(*args, **kwargs)


def arguments(op: Any, dtypes: Iterator[torch.dtype]) -> Iterator[Any]:
    examples = {"int": 1, "float": 1.0, "number": 1.0, "bool": False, "str": "same", "List[int]": [1, 1]}
    for argument in op._schema.arguments:
        kind = str(argument.type).removeprefix("Optional[").removesuffix("]")
        if argument.kwarg_only:
            continue
        if kind == "Tensor":
            yield torch.ones(2, 2, dtype=next(dtypes))
        elif kind == "List[Tensor":
            yield [torch.ones(2, 2, dtype=next(dtypes)) for _ in range(2)]
        else:
            yield argument.default_value if argument.has_default_value() else examples.get(str(argument.type))


def casts(op: Any, *dtypes: torch.dtype) -> set[torch.dtype]:
    given = list(arguments(op, iter(dtypes * 50)))
    make: Callable[[], Casts] = Casts
    seen = make()
    seen.made = set()
    with torch.autocast("cpu", dtype=BFLOAT16), seen, pytest.raises((StopIteration, RuntimeError)):
        op(*given)
    return seen.made


@pytest.mark.parametrize("name", sorted(policies("cpu")))
def test_the_policy_of_each_operation_is_what_torch_does(name: str) -> None:
    packet, _, overload = name.removeprefix("aten::").partition(".")
    op = getattr(getattr(torch.ops.aten, packet), overload or "default")
    if BFLOAT16 in casts(op, torch.float32):
        measured = Policy.LOWER_PRECISION
    else:
        measured = Policy.FLOAT32 if torch.float32 in casts(op, BFLOAT16) else Policy.PROMOTE
    assert policies("cpu")[name] is measured


def test_the_lists_of_cuda_name_operations_that_torch_casts_there() -> None:
    registered = set(torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA"))
    unlisted = registered - set(policies("cuda"))
    assert set(policies("cuda")) <= registered
    assert unlisted == {"aten::cudnn_convolution", "aten::cudnn_convolution_transpose"}, "no call of users reaches them"


CUDA_DTYPES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], torch.dtype]] = {
    "mm": (lambda single, half: single @ single, torch.float16),
    "einsum": (lambda single, half: torch.einsum("ij,jk", single, single), torch.float16),
    "exp": (lambda single, half: half.exp(), torch.float32),
    "layer_norm": (lambda single, half: F.layer_norm(half, (3,)), torch.float32),
    "mse_loss": (lambda single, half: F.mse_loss(half, half), torch.float32),
    "softmax": (lambda single, half: half.softmax(0), torch.float32),
    "softmax to a dtype": (lambda single, half: half.softmax(0, dtype=torch.float64), torch.float64),
    "sum": (lambda single, half: half.sum(), torch.float32),
    "sum of a dimension": (lambda single, half: half.sum(0), torch.float32),
    "sum to a dtype": (lambda single, half: half.sum(0, dtype=torch.float16), torch.float16),
    "sum of integers": (lambda single, half: half.long().sum(), torch.int64),
    "prod": (lambda single, half: half.prod(0), torch.float32),
    "norm": (lambda single, half: torch.ops.aten.norm.Scalar(half), torch.float32),
    "norm with p": (lambda single, half: torch.ops.aten.norm.Scalar(half, 3), torch.float32),
    "norm of dimensions": (lambda single, half: torch.ops.aten.norm.ScalarOpt_dim(half, 2, [0]), torch.float32),
    "vector_norm": (lambda single, half: torch.linalg.vector_norm(half), torch.float32),
    "addcmul": (lambda single, half: torch.addcmul(single, half, half), torch.float32),
    "addcmul of halves": (lambda single, half: torch.addcmul(half, half, half), torch.float16),
    "cat": (lambda single, half: torch.cat([half, half]), torch.float16),
}


@pytest.mark.parametrize("name", list(CUDA_DTYPES))
def test_the_dtypes_of_the_lists_of_cuda(
    name: str, virtual_worker: pt.VirtualWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules, tried on a CPU; the values are its own."""
    monkeypatch.setattr(virtual_worker.casting, "kind", "cuda")
    call, dtype = CUDA_DTYPES[name]
    single = torch.rand(3, 3, device=virtual_worker.device)
    with virtual_worker.autocast():
        result = call(single, single.half())
    assert result.dtype is dtype and value(result).dtype is dtype


def test_what_cuda_refuses(virtual_worker: pt.VirtualWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_worker.casting, "kind", "cuda")
    x = torch.rand(3, device=virtual_worker.device)
    with virtual_worker.autocast():
        with pytest.raises(RuntimeError, match="binary_cross_entropy_with_logits"):
            F.binary_cross_entropy(x, x)
        with pytest.raises(RuntimeError, match="cast them before"):
            torch.dot(x.half(), x.bfloat16())


# --- models


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.lstm(x)[0])


class Tied(nn.Module):
    """One parameter used twice: its cast is made once, and so are its gradients added up in low precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight).relu(), self.weight)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.LayerNorm(8)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4)
    ),
    "recurrent": Recurrent,
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
    "tied": Tied,
}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_trains_to_the_same_numbers(name: str, worker: pt.Worker) -> None:
    # Torch has a fused kernel for recurrent layers in main memory, which rounds less often.
    tolerance = 0.02 if name == "recurrent" else SAME_BITS
    local = MODELS[name]()
    remote = pt.send(copy.deepcopy(local), worker)
    x = torch.randn(4, 5, 8)
    for _ in range(2):
        outputs = []
        for model, given in ((local, x), (remote, pt.send(x, worker))):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            with torch.autocast("cpu", dtype=BFLOAT16), worker.autocast():
                output = model(given)
                loss = F.mse_loss(output, torch.zeros_like(output))
            loss.backward()
            optimizer.step()
            outputs.append((output, loss))
        check_equal(outputs[1], outputs[0], worker, tolerance)
    for mine, other in zip(local.parameters(), remote.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        check_tensor(other.grad, mine.grad, tolerance)
        check_tensor(other, mine, tolerance)


# --- the context


def test_it_is_off_outside_and_where_it_is_switched_off(worker: pt.Worker) -> None:
    x = torch.ones(2, 2, device=worker.device)
    assert product(x) is torch.float32
    with worker.autocast():
        assert product(x) is BFLOAT16
        with worker.autocast(enabled=False):
            assert product(x) is torch.float32
        with worker.autocast(torch.float16):
            assert product(x) is torch.float16
        assert product(x) is BFLOAT16
        assert product(x.double()) is torch.float64
        assert product(torch.ones(2, 2)) is torch.float32
    assert product(x) is torch.float32
    with pytest.raises(KeyError), worker.autocast():
        raise KeyError
    assert product(x) is torch.float32


def test_torchs_own_autocast_does_not_reach_a_worker(worker: pt.Worker) -> None:
    x = torch.ones(2, 2, device=worker.device)
    with torch.autocast("cpu", dtype=BFLOAT16):
        assert (product(x), value(x @ x).dtype) == (torch.float32, torch.float32)


def test_it_is_for_one_worker(worker: pt.Worker, second_worker: pt.Worker) -> None:
    with worker.autocast():
        assert product(torch.ones(2, 2, device=second_worker.device)) is torch.float32
        with second_worker.autocast(torch.float16):
            assert product(torch.ones(2, 2, device=second_worker.device)) is torch.float16
            assert product(torch.ones(2, 2, device=worker.device)) is BFLOAT16


def test_it_is_for_one_thread(virtual_worker: pt.Worker) -> None:
    x = torch.ones(2, 2, device=virtual_worker.device)
    found: list[torch.dtype] = []
    with virtual_worker.autocast():
        thread = threading.Thread(target=lambda: found.append(product(x)))
        thread.start()
        thread.join()
    assert found == [torch.float32]


def test_as_a_decorator(virtual_worker: pt.VirtualWorker) -> None:
    assert virtual_worker.autocast()(product)(torch.ones(2, 2, device=virtual_worker.device)) is BFLOAT16


def test_a_composite_is_cast_within(worker: pt.Worker) -> None:
    x = torch.ones(2, 2, device=worker.device)
    with worker.autocast():
        assert torch.einsum("ij,jk->ik", x, x).dtype is BFLOAT16


def test_arguments_that_torch_would_not_cast_are_left(worker: pt.Worker) -> None:
    with worker.autocast():
        assert torch.stack([torch.ones(2, device=worker.device, dtype=torch.int64)] * 2).dtype is torch.int64
        mixed = [torch.ones(2, device=worker.device), torch.ones(2, device=worker.device, dtype=BFLOAT16)]
        assert torch.cat(mixed).dtype is torch.float32


def test_casts_of_parameters_are_kept_only_within(virtual_worker: pt.VirtualWorker) -> None:
    weight = torch.ones(2, 2, device=virtual_worker.device, requires_grad=True)
    with virtual_worker.autocast():
        product(weight)
        assert virtual_worker.casting.casts
    assert not virtual_worker.casting.casts
    with virtual_worker.autocast(cache_enabled=False):
        product(weight)
        assert not virtual_worker.casting.casts


def test_another_dtype_is_warned_of_and_casts_nothing(virtual_worker: pt.VirtualWorker) -> None:
    x = torch.ones(2, 2, device=virtual_worker.device)
    with pytest.warns(UserWarning, match=r"torch\.float64 was asked for"), virtual_worker.autocast(torch.float64):
        assert product(x) is torch.float32
