"""Tensors made at a worker: `device=bob.device`, `with bob:`, and what is made like something else (D1, F1)."""

import threading
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from comparing import check_equal, check_tensor, value, waits
from torch import Tensor, nn

import ptrtensor as pt

Make = Callable[..., Any]

FACTORIES: dict[str, Make] = {
    "zeros": lambda **at: torch.zeros(2, 3, **at),
    "zeros of no dimensions": lambda **at: torch.zeros((), **at),
    "ones": lambda **at: torch.ones(2, 3, dtype=torch.int16, **at),
    "full": lambda **at: torch.full((2, 3), -0.0, **at),
    "full of integers": lambda **at: torch.full((2,), 7, **at),
    "full of booleans": lambda **at: torch.full((2,), True, **at),
    "full of complex numbers": lambda **at: torch.full((2,), 1 + 2j, **at),
    "empty": lambda **at: torch.empty(2, 3, **at).fill_(1),
    "empty_strided": lambda **at: torch.empty_strided((2, 3), (1, 2), **at).fill_(1),
    "empty in channels_last": lambda **at: torch.empty(1, 2, 3, 4, memory_format=torch.channels_last, **at).fill_(1),
    "empty of nothing": lambda **at: torch.empty(0, 4, **at),
    "arange": lambda **at: torch.arange(5, **at),
    "arange of floats": lambda **at: torch.arange(0.5, 3, 0.5, **at),
    "arange backward": lambda **at: torch.arange(5, 0, -2, **at),
    "linspace": lambda **at: torch.linspace(-1, 1, 5, **at),
    "logspace": lambda **at: torch.logspace(0, 2, 3, **at),
    "eye": lambda **at: torch.eye(3, **at),
    "eye of two sizes": lambda **at: torch.eye(2, 3, dtype=torch.bool, **at),
    "tensor": lambda **at: torch.tensor([[1, 2], [3, 4]], **at),
    "tensor of a number": lambda **at: torch.tensor(2.5, **at),
    "tensor of an array": lambda **at: torch.tensor(numpy.arange(3), **at),
    "tensor that requires grad": lambda **at: torch.tensor([1.0], requires_grad=True, **at),
    "as_tensor": lambda **at: torch.as_tensor([1.5, 2.5], **at),
    "as_tensor of an array": lambda **at: torch.as_tensor(numpy.ones(2, dtype=numpy.float32), **at),
    "asarray": lambda **at: torch.asarray([1, 2], **at),
    "scalar_tensor": lambda **at: torch.scalar_tensor(3, **at),
    "complex": lambda **at: torch.zeros(2, dtype=torch.complex64, **at),
    "zeros that require grad": lambda **at: torch.zeros(2, requires_grad=True, **at),
    "tril_indices": lambda **at: torch.tril_indices(3, 3, **at),
    "triu_indices": lambda **at: torch.triu_indices(3, 3, **at),
    "hann_window": lambda **at: torch.hann_window(5, **at),
    "blackman_window": lambda **at: torch.blackman_window(5, **at),
    "fftfreq": lambda **at: torch.fft.fftfreq(5, **at),
    "Linear": lambda **at: nn.init.ones_(nn.Linear(3, 2, **at).weight),
}


@pytest.mark.parametrize("make", FACTORIES.values(), ids=list(FACTORIES))
def test_device_says_where(make: Make, worker: pt.Worker) -> None:
    expected = make()
    for _ in range(2):
        with waits(worker, 0):
            made = make(device=worker.device)
        check_equal(made, expected, worker)
    check_equal(make(device=str(worker.device)), expected, worker)


def with_worker(worker: pt.Worker, make: Make) -> object:
    with worker:
        return make()


def with_device(worker: pt.Worker, make: Make) -> object:
    with worker.device:
        return make()


def with_torch_device(worker: pt.Worker, make: Make) -> object:
    with torch.device(worker.device):
        return make()


def by_default(worker: pt.Worker, make: Make) -> object:
    torch.set_default_device(worker.device)
    try:
        return make()
    finally:
        torch.set_default_device(None)


CONTEXTS = [with_worker, with_device, with_torch_device, by_default]


@pytest.mark.parametrize("make", FACTORIES.values(), ids=list(FACTORIES))
@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.__name__)
def test_a_context_says_where(
    context: Callable[[pt.Worker, Make], object], make: Make, virtual_worker: pt.VirtualWorker
) -> None:
    check_equal(context(virtual_worker, make), make(), virtual_worker)
    assert not pt.is_pointer(make()), "the context is over"


def test_contexts_nest_and_end_with_an_error(worker: pt.Worker, second_worker: pt.Worker) -> None:
    with worker as entered:
        assert entered is worker
        with second_worker:
            inner = torch.zeros(1)
            with worker:
                innermost = torch.zeros(1)
        outer, here = torch.zeros(1), torch.zeros(1, device="cpu")
    with pytest.raises(KeyError), worker:
        raise KeyError
    assert [pt.is_pointer(p) and p.location for p in (inner, innermost, outer)] == [second_worker, worker, worker]
    assert not pt.is_pointer(here) and not pt.is_pointer(torch.zeros(1))


def test_a_context_is_of_one_thread(worker: pt.Worker) -> None:
    made: list[Tensor] = []
    with worker:
        thread = threading.Thread(target=lambda: made.append(torch.zeros(1)))
        thread.start()
        thread.join()
    assert not pt.is_pointer(made[0])


def test_modules_are_made_in_a_context(worker: pt.Worker) -> None:
    with worker:
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.LSTM(2, 2))
        x = torch.randn(4, 3)
    tensors = [*model.parameters(), *model.buffers()]
    assert all(pt.is_pointer(tensor) and tensor.location is worker for tensor in tensors)
    assert all(isinstance(parameter, nn.Parameter) and parameter.requires_grad for parameter in model.parameters())
    model[:2](x).sum().backward()
    assert pt.is_pointer(model[0].weight.grad)


LIKE: dict[str, Make] = {
    "zeros_like": lambda x, **more: torch.zeros_like(x, **more),
    "ones_like": lambda x, **more: torch.ones_like(x, dtype=torch.int64, **more),
    "full_like": lambda x, **more: torch.full_like(x, 2.5, **more),
    "empty_like": lambda x, **more: torch.empty_like(x, **more).fill_(1),
    "empty_like in order": lambda x, **more: torch.empty_like(x, memory_format=torch.contiguous_format, **more).fill_(
        1
    ),
    "rand_like": lambda x, **more: torch.rand_like(x, **more).ge(0),
    "randint_like": lambda x, **more: torch.randint_like(x, 1, **more),
    "new_zeros": lambda x, **more: x.new_zeros(2, **more),
    "new_ones": lambda x, **more: x.new_ones((2, 1), dtype=torch.bool, **more),
    "new_full": lambda x, **more: x.new_full((2,), 7, **more),
    "new_empty": lambda x, **more: x.new_empty(2, **more).fill_(1),
    "new_empty_strided": lambda x, **more: x.new_empty_strided((2, 2), (1, 2), **more).fill_(1),
    "new_tensor": lambda x, **more: x.new_tensor([[1, 2]], **more),
    "new_zeros that require grad": lambda x, **more: x.new_zeros(2, requires_grad=True, **more),
}


@pytest.mark.parametrize("make", LIKE.values(), ids=list(LIKE))
def test_like_a_pointer_is_a_pointer(make: Make, worker: pt.Worker) -> None:
    like = torch.ones(2, 3).t()
    there = pt.send(like, worker)
    with waits(worker, 0):
        made = make(there)
    check_equal(made, make(like), worker)


@pytest.mark.parametrize("make", LIKE.values(), ids=list(LIKE))
def test_like_a_pointer_but_somewhere_else(make: Make, worker: pt.Worker, second_worker: pt.Worker) -> None:
    like = torch.ones(2, 3).t()
    there, expected = pt.send(like, worker), make(like)
    with waits(worker, 0):
        here = make(there, device="cpu")
        elsewhere = make(there, device=second_worker.device)
    assert not pt.is_pointer(here)
    check_tensor(here, expected)
    check_equal(elsewhere, expected, second_worker)
    check_equal(make(like, device=worker.device), expected, worker)


def test_from_what_is_elsewhere_already(worker: pt.Worker, second_worker: pt.Worker) -> None:
    here, there = torch.tensor([1.0, 2.0]), pt.send(torch.tensor([3.0, 4.0]), worker)
    check_equal(torch.as_tensor(here, device=worker.device), here, worker)
    assert torch.as_tensor(there) is there and torch.as_tensor(there, device=worker.device) is there
    check_equal(torch.as_tensor(there, device=second_worker.device), value(there), second_worker)
    assert not pt.is_pointer(torch.as_tensor(there, device="cpu"))
    check_equal(torch.as_tensor(there, dtype=torch.float64), value(there).double(), worker)


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")  # torch's advice, on any device
def test_tensor_of_a_tensor_is_a_copy_there(worker: pt.Worker) -> None:
    there = pt.send(torch.tensor([3.0, 4.0], requires_grad=True), worker)
    copied = torch.tensor(there)
    assert pt.is_pointer(copied) and not copied.requires_grad
    with torch.no_grad():
        there.zero_()
    check_equal(copied, torch.tensor([3.0, 4.0]), worker)
    check_equal(torch.tensor(torch.tensor([1, 2]), device=worker.device), torch.tensor([1, 2]), worker)
    check_equal(there.new_tensor(torch.tensor([1, 2])), torch.tensor([1.0, 2.0]), worker)


def test_a_list_of_pointers_is_read_as_numbers(worker: pt.Worker) -> None:
    numbers = [pt.send(torch.tensor(float(number)), worker) for number in range(3)]
    made = torch.tensor(numbers)
    assert not pt.is_pointer(made) and made.tolist() == [0, 1, 2]


def test_made_there_without_a_local_copy_of_the_size(worker: pt.Worker) -> None:
    """A factory is a command, not an upload."""
    before = worker.stats()["bytes_sent"]
    made = torch.zeros(1000, 1000, device=worker.device)
    assert float(made.sum()) == 0
    assert worker.stats()["bytes_sent"] - before < 10_000


def test_gradients_flow_from_what_was_made_there(worker: pt.Worker) -> None:
    made = torch.ones(2, requires_grad=True, device=worker.device)
    assert made.is_leaf
    (made * 3).sum().backward()
    check_equal(made.grad, torch.tensor([3.0, 3.0]), worker)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_the_default_dtype_is_the_callers(dtype: torch.dtype, worker: pt.Worker) -> None:
    integers = torch.ones(2, dtype=torch.int64)
    there = pt.send(integers, worker)
    programs: list[Make] = [
        lambda x: torch.zeros(2, device=x.device),
        lambda x: torch.tensor([1.5], device=x.device),
        lambda x: x * 2.5,
        lambda x: x / 2,
        lambda x: torch.full((1,), 1.0, device=x.device),
    ]
    before = [program(there).dtype for program in programs]
    torch.set_default_dtype(dtype)
    for program in programs:
        check_equal(program(there), program(integers), worker)
    torch.set_default_dtype(torch.float32)
    assert [program(there).dtype for program in programs] == before


# --- devices that are not there


LOST: dict[str, Callable[[pt.Worker], object]] = {
    "device without an index": lambda worker: torch.zeros(2, device="lazy"),
    "index 0": lambda worker: torch.zeros(2, device="lazy:0"),
    "index of nobody": lambda worker: torch.zeros(2, device="lazy:99"),
    "to an index of nobody": lambda worker: torch.zeros(2).to("lazy:98"),
    "a pointer to an index of nobody": lambda worker: pt.send(torch.ones(2), worker).to("lazy:98"),
    "a module to an index of nobody": lambda worker: nn.Linear(2, 2).to("lazy:98"),
    "an index that wraps": lambda worker: torch.zeros(2, device=torch.device("lazy", 128)),
    "tensor": lambda worker: torch.tensor([1], device="lazy"),
    "with": lambda worker: with_worker_of(torch.device("lazy"), lambda: torch.ones(2)),
}


def with_worker_of(device: torch.device, make: Make) -> object:
    with device:
        return make()


@pytest.mark.parametrize("make", LOST.values(), ids=list(LOST))
def test_a_device_of_nobody_is_an_error_that_says_whose_there_are(
    make: Callable[[pt.Worker], object], worker: pt.Worker
) -> None:
    with pytest.raises(
        (pt.PtrTensorError, RuntimeError), match=f"(?s)no worker has the device.*{worker.id}|index|, which is closed"
    ) as e:
        make(worker)
    assert "internal" not in str(e.value).lower()


def test_a_closed_workers_device_is_an_error_that_names_it(make_worker: Callable[[str], pt.Worker]) -> None:
    worker = make_worker("virtual")
    pointer = torch.zeros(2, device=worker.device)
    worker.close()
    makers: list[Make] = [
        lambda: torch.zeros(2, device=worker.device),
        lambda: pointer + 1,
        lambda: torch.zeros(1).to(worker.device),
    ]
    for make in makers:
        with pytest.raises(pt.WorkerLostError, match=worker.id):
            make()


def test_a_factory_does_not_take_a_tensor_from_elsewhere(worker: pt.Worker) -> None:
    with pytest.raises(pt.WorkerMismatchError, match=r"send\(\)|move\(\)"):
        torch.add(torch.ones(2, device=worker.device), torch.ones(2))
    with pytest.raises(pt.WorkerMismatchError):
        torch.cat([torch.ones(2, device=worker.device), torch.ones(2)])
    with pytest.raises(pt.WorkerMismatchError):
        torch.where(torch.ones(2, dtype=torch.bool), torch.ones(2, device=worker.device), 0.0)
