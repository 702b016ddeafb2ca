"""Functions of torch that lose something for tensor subclasses, and are put right in `__torch_function__`."""

from typing import Any

import pytest
import torch

import ptrtensor as pt


def test_new_by_sizes(worker: pt.Worker) -> None:
    pointer = torch.ones(3, dtype=torch.float64, device=worker.device)
    for made, shape in [(pointer.new(2, 3), (2, 3)), (pointer.new(torch.Size([4])), (4,)), (pointer.new(), (0,))]:
        assert pt.is_pointer(made) and made.location is worker
        assert (tuple(made.shape), made.dtype) == (shape, torch.float64)
    assert pointer.new([1.0, 2.0]).tolist() == [1, 2]


@pytest.mark.parametrize("name", ["Laplace", "Geometric", "Multinomial"])
def test_distributions_that_use_it(name: str, worker: pt.Worker) -> None:
    def sample(device: torch.device) -> torch.Tensor:
        torch.manual_seed(0)
        half = torch.full((2,), 0.5, device=device)
        make = getattr(torch.distributions, name)
        made: torch.Tensor = {
            "Laplace": lambda: make(half, half),
            "Geometric": lambda: make(half),
            "Multinomial": lambda: make(5, half),
        }[name]().sample()
        return made

    got = sample(worker.device)
    assert pt.is_pointer(got)
    assert got.shape == sample(torch.device("cpu")).shape


def test_histc_of_integers_as_every_accelerator_has_it(worker: pt.Worker) -> None:
    pointer = torch.tensor([0, 1, 1, 3], dtype=torch.int32, device=worker.device)
    counted = torch.histc(pointer, bins=4, min=0, max=3)
    assert (counted.dtype, counted.tolist()) == (torch.int32, [1, 2, 0, 1])
    assert torch.histc(pointer.float(), bins=2, min=0, max=3).tolist() == [3, 1]


def test_matmul_into(worker: pt.Worker) -> None:
    left, right = torch.arange(24.0).reshape(2, 3, 4), torch.arange(20.0).reshape(4, 5)
    for size in ((2, 3, 5), (0,)):
        out = torch.empty(size, device=worker.device)
        assert torch.matmul(pt.send(left, worker), pt.send(right, worker), out=out) is out
        assert torch.equal(out.cpu(), left @ right)


def test_matrix_rank_into(worker: pt.Worker) -> None:
    out = torch.empty((), dtype=torch.int64, device=worker.device)
    assert torch.linalg.matrix_rank(torch.eye(3, device=worker.device), out=out) is out
    assert out.item() == 3


@pytest.mark.parametrize("function", [torch.matmul, torch.linalg.matrix_rank])
@pytest.mark.parametrize("out", [torch.float64, torch.int64, torch.int32, torch.bool, "elsewhere", "grad", "no_grad"])
def test_an_out_that_does_not_fit_is_refused_as_locally(function: Any, out: Any, worker: pt.Worker) -> None:
    def into(device: torch.device) -> Any:
        value = torch.eye(2, device=device).requires_grad_(out in ("grad", "no_grad"))
        arguments = (value, value) if function is torch.matmul else (value,)
        dtype = out if isinstance(out, torch.dtype) else function(*arguments).dtype
        shape = function(*arguments).shape
        where = "meta" if out == "elsewhere" else device
        with torch.set_grad_enabled(out != "no_grad"):
            try:
                return function(*arguments, out=torch.empty(shape, dtype=dtype, device=where)).tolist()
            except RuntimeError:
                return "refused"

    assert into(worker.device) == into(torch.device("cpu"))


def test_an_out_that_grows_is_laid_out_as_local_torch_does(worker: pt.Worker) -> None:
    value = torch.arange(6.0).reshape(2, 3).t()
    out, expected = torch.empty(0, device=worker.device), torch.empty(0)
    torch.add(pt.send(value, worker), 1, out=out)
    torch.add(value, 1, out=expected)
    assert out.stride() == expected.stride()
    assert torch.equal(out[1].cpu(), expected[1]) and torch.equal(out.flatten().cpu(), expected.flatten())


def test_an_out_that_grows_at_a_second_worker(worker: pt.Worker, second_worker: pt.Worker) -> None:
    """What was inferred for one worker must not hide from the next that the argument changes."""
    for each in (second_worker, worker):
        out = torch.empty(0, device=each.device)
        torch.linalg.solve(2 * torch.eye(2, device=each.device), torch.ones(2, device=each.device), out=out)
        assert out.shape == (2,) and out.tolist() == [0.5, 0.5]
