"""Functions of torch that lose something for tensor subclasses, and are put right in `__torch_function__`."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import check_equal, waits
from torch.autograd import forward_ad

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


def factored(device: str | torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    pivoted, pivots = torch.linalg.lu_factor(torch.randn(3, 3, dtype=torch.complex128))
    return pivoted.to(device), pivots.to(device), torch.randn(4, 3, dtype=torch.complex128).to(device)


@pytest.mark.parametrize("adjoint", [True, False])
def test_results_that_come_conjugated(adjoint: bool, worker: pt.Worker) -> None:
    """Torch decides by the strides whether such a result is conjugated lazily, also when it is written into `out`."""

    def solve(device: str | torch.device, **options: Any) -> Any:
        pivoted, pivots, right = factored(device)
        return torch.linalg.lu_solve(pivoted, pivots, right, left=False, adjoint=adjoint, **options)

    check_equal(solve(worker.device), solve("cpu"), worker)
    outs = [torch.empty(4, 3, dtype=torch.complex128, device=device) for device in (worker.device, "cpu")]
    check_equal(solve(worker.device, out=outs[0]), solve("cpu", out=outs[1]), worker)
    check_equal(outs[0] + 1, outs[1] + 1, worker)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, of its decompositions
def test_a_tangent_is_marked_as_its_primal(worker: pt.Worker) -> None:
    def tangent(device: str | torch.device) -> Any:
        value = torch.arange(3.0, device=device).to(torch.complex64).mul(1j).conj()
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(value, torch.full((3,), 1 + 2j, device=device))
            return forward_ad.unpack_dual(dual * 2).tangent

    check_equal(tangent(worker.device), tangent("cpu"), worker)


@pytest.mark.parametrize("function", [F.silu, F.mish, lambda x: F.channel_shuffle(x, 2)])
def test_what_a_cpu_has_a_kernel_for_is_one_command(function: Any, worker: pt.Worker) -> None:
    """On a device without one torch takes these apart, and rounds at every step."""
    values = torch.randn(1, 4, 3, 2).half()
    local, remote = values.clone().requires_grad_(), pt.send(values, worker).requires_grad_()
    ones = torch.ones(values.shape, dtype=values.dtype, device=worker.device)
    before = worker.stats()["commands"]
    got = torch.autograd.grad(function(remote), remote, ones)
    assert worker.stats()["commands"] - before <= 5
    check_equal(got, torch.autograd.grad(function(local), local, torch.ones_like(local)), worker)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_of_what_is_computed_with_an_expanded_tensor(dtype: torch.dtype, worker: pt.Worker) -> None:
    def product(device: str | torch.device) -> torch.Tensor:
        other = torch.arange(4.0, device=device, dtype=dtype).reshape(2, 2).t()
        return torch.ones((), device=device, dtype=dtype).expand(2, 2) * other

    check_equal(product(worker.device), product("cpu"), worker)


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


@pytest.mark.parametrize("classes", [[0, 9], [0, -1]], ids=str)
def test_classes_out_of_range_are_refused(classes: list[int], worker: pt.Worker) -> None:
    """With the number of classes nothing waits, so it is the worker that refuses."""
    labels = torch.tensor(classes, device=worker.device)
    with waits(worker, 0):
        made = F.one_hot(labels, 3)
    with pytest.raises(pt.RemoteOpError, match="out of bounds"):
        made.tolist()
    worker.recover()


@pytest.mark.parametrize("given", [([0, -1],), ([],), ([1], 0), ([1, 0], -2)], ids=str)
def test_classes_that_are_known_to_be_wrong_are_refused_at_the_line(given: Any, worker: pt.Worker) -> None:
    classes, *count = given
    with pytest.raises(RuntimeError) as here:
        F.one_hot(torch.tensor(classes, dtype=torch.int64), *count)
    with pytest.raises(RuntimeError) as caught:
        F.one_hot(torch.tensor(classes, dtype=torch.int64, device=worker.device), *count)
    assert type(caught.value) is RuntimeError and str(caught.value) == str(here.value)


@pytest.mark.parametrize("given", [([0, 2], 3), ([[1], [0]],), (2, 4), ([], 2)], ids=str)
def test_one_hot(given: Any, worker: pt.Worker) -> None:
    classes, *count = given
    local = torch.tensor(classes, dtype=torch.int64)
    check_equal(F.one_hot(pt.send(local, worker), *count), F.one_hot(local, *count), worker)
