"""Views are views at the worker, and a pointer's metadata follows whatever is done to it (D5)."""

from collections.abc import Callable

import pytest
import torch
from collecting import collect
from comparing import Program, check_equal, check_program, check_tensor, held, value
from torch import Tensor

import ptrtensor as pt

# --- views


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "select": lambda x: x[1],
    "negative index": lambda x: x[-1],
    "slice": lambda x: x[1:, ::2],
    "ellipsis": lambda x: x[..., 1],
    "None": lambda x: x[:, None],
    "nested": lambda x: x[1:][0][2:],
    "view": lambda x: x.view(2, 12),
    "view_as": lambda x: x.view_as(torch.zeros(24)),
    "reshape": lambda x: x.reshape(-1),
    "flatten": lambda x: x.flatten(),
    "unflatten": lambda x: x.unflatten(1, (2, 3)),
    "t": lambda x: x.t(),
    "T": lambda x: x.T,
    "transpose": lambda x: x.transpose(0, 1),
    "permute": lambda x: x.permute(1, 0),
    "movedim": lambda x: x.movedim(0, 1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "expand_as itself": lambda x: x.expand_as(x),
    "narrow": lambda x: x.narrow(1, 2, 3),
    "diagonal": lambda x: x.diagonal(),
    "as_strided": lambda x: x.as_strided((2, 2), (7, 2), 3),
    "unfold": lambda x: x.unfold(1, 2, 2),
    "chunk": lambda x: x.chunk(2)[1],
    "split": lambda x: x.split([1, 3])[1],
    "tensor_split": lambda x: x.tensor_split(3, dim=1)[2],
    "hsplit": lambda x: x.hsplit(2)[1],
    "unbind": lambda x: x.unbind()[2],
    "swapdims": lambda x: x.swapdims(0, 1),
    "view of dtype": lambda x: x.view(torch.int32),
    "view as complex": lambda x: torch.view_as_complex(x.view(4, 3, 2)),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "alias": lambda x: torch.ops.aten.alias(x),
    "contiguous of a contiguous one": lambda x: x.contiguous(),
    "to the same dtype": lambda x: x.to(torch.float32),
    "real of real": torch.real,
}


def matrix() -> Tensor:
    return torch.arange(24.0).view(4, 6)


@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
def test_a_write_to_either_is_seen_in_both(view: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    local = matrix()
    pointer = pt.send(local, worker)
    local_view, pointer_view = view(local), view(pointer)
    check_equal(pointer_view, local_view, worker)
    assert pointer_view.storage_offset() == local_view.storage_offset()

    for tensor, seen in ((local, local_view), (pointer, pointer_view)):
        tensor[1:, 1:] += 100
        seen.fill_(7)
    check_equal([pointer, pointer_view], [local, local_view], worker)


COPIES: dict[str, Callable[[Tensor], Tensor]] = {
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.t().contiguous(),
    "advanced index": lambda x: x[torch.tensor([1])],
    "mask": lambda x: x[x > 3],
    "reshape of a transposed one": lambda x: x.t().reshape(-1),
    "to another dtype": lambda x: x.to(torch.float64),
    "repeat": lambda x: x.repeat(2, 1),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=list(COPIES))
def test_a_copy_sees_no_later_write(copy: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    local = matrix()
    pointer = pt.send(local, worker)
    local_copy, pointer_copy = copy(local), copy(pointer)
    pointer.fill_(-1)
    local.fill_(-1)
    check_equal(pointer_copy, local_copy, worker)


def test_a_view_outlives_the_pointer_that_it_was_made_from(worker: pt.Worker) -> None:
    before = held(worker)
    base = pt.send(torch.arange(4.0), worker)
    view = base.detach()[1:]
    del base
    collect()
    assert value(view).tolist() == [1, 2, 3]
    del view
    assert held(worker) == before


def test_detach_shares_the_value_and_sends_nothing(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(3, requires_grad=True), worker)
    before = worker.stats()["commands"]
    detached = pointer.detach()
    data = pointer.data
    assert worker.stats()["commands"] == before
    assert pt.is_pointer(detached) and pt.is_pointer(data)
    assert detached.id_at_location == data.id_at_location == pointer.id_at_location
    assert not detached.requires_grad and detached.is_leaf
    detached.add_(1)
    assert value(pointer).tolist() == [2, 2, 2]


def test_detach_in_place(worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(3, requires_grad=True), worker)
    result = leaf * 2
    result.detach_()
    assert result.is_leaf and not result.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        result.sum().backward()


# --- metadata


def resized_by_out(x: Tensor) -> Tensor:
    out = x.new_empty(0)
    torch.add(x, 1, out=out)
    return out


def out_of_the_right_size(x: Tensor) -> Tensor:
    out = torch.zeros_like(x).t()
    torch.mul(x.t(), 2, out=out)
    return out


def out_is_a_view(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    torch.add(x[0], 1, out=out[1])
    return out


def two_outs(x: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = x.new_empty(0), torch.empty_like(x, dtype=torch.int64).resize_(0)
    torch.max(x, dim=1, out=(values, indices))
    return values, indices


def list_of_outs(x: Tensor) -> Tensor:
    out = x.new_empty(0)
    torch.cat([x, x], dim=1, out=out)
    return out


def grown(x: Tensor) -> Tensor:
    x.resize_(5, 6)[4:].zero_()
    return x


def shrunk_view(x: Tensor) -> tuple[Tensor, Tensor]:
    view = x[1:]
    view.resize_(2, 2)
    view.fill_(5)
    return x, view


def set_to_another(x: Tensor) -> tuple[Tensor, Tensor]:
    other = torch.zeros_like(x).t()
    torch.ops.aten.set_(x, other)
    x.add_(1)
    return x, other


def view_of_a_transposed(x: Tensor) -> tuple[Tensor, Tensor]:
    view = x[1:]
    x.t_()
    view.fill_(0)
    return x, view


METADATA: dict[str, Program] = {
    "t_": lambda x: x.t_(),
    "transpose_": lambda x: x.transpose_(0, 1),
    "swapaxes_": lambda x: x.swapaxes_(0, 1),
    "unsqueeze_": lambda x: x.unsqueeze_(1),
    "squeeze_": lambda x: x.unsqueeze_(0).squeeze_(),
    "squeeze_ of a dimension": lambda x: x.unsqueeze_(0).unsqueeze_(0).squeeze_(1),
    "as_strided_": lambda x: x.as_strided_((3, 2), (2, 5), 1),
    "resize_ smaller": lambda x: x.resize_(2, 3),
    "resize_ larger": grown,
    "resize_as_": lambda x: x.resize_as_(x.new_empty(2, 2)),
    "resize_ of a view": shrunk_view,
    "set_": set_to_another,
    "t_ under a view": view_of_a_transposed,
    "out with resize": resized_by_out,
    "out": out_of_the_right_size,
    "out is a view": out_is_a_view,
    "two outs": two_outs,
    "out of a list": list_of_outs,
    "arange with out": lambda x: torch.arange(3, out=x.new_empty(0)),
    "nonzero": lambda x: torch.nonzero(x > 3),
    "masked_select": lambda x: x.masked_select(x > 3),
    "unique": lambda x: torch.unique(x.floor(), return_counts=True),
    "combinations": lambda x: torch.combinations(x[0]),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.tensor([1, 0, 2, 1]).to(x.device), dim=0),
    "conj": lambda x: torch.complex(x, x).conj(),
    "conj and imag": lambda x: torch.complex(x, x).conj().imag,
    "conj written to": lambda x: torch.complex(x, x).conj().add_(1j),
    "resolved": lambda x: torch.complex(x, x).conj().resolve_conj(),
    "physical": lambda x: torch.complex(x, x).conj_physical_(),
    "negated": lambda x: torch.complex(x, x).conj().imag.resolve_neg(),
    "fft": lambda x: torch.fft.fft(x),
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x)),
    "polar": lambda x: torch.polar(x.abs(), x),
    "eig": lambda x: torch.linalg.eigvals(x[:, :4]).abs().sort().values.round(),
    "svd": lambda x: torch.linalg.svdvals(x).round(decimals=3),
    "channels_last": lambda x: x.view(2, 2, 2, 3).to(memory_format=torch.channels_last) * 2,
    "conv of channels_last": lambda x: torch.nn.functional.conv2d(
        x.view(2, 2, 2, 3).to(memory_format=torch.channels_last), torch.ones(3, 2, 1, 1).to(x.device)
    ),
    "slices that grow": lambda x: [x[:, :length] * 2 for length in range(6)],
    "empty results": lambda x: [x[:0].sum(0), torch.cat([x[:0], x[2:2]]), x[:0].t() @ x[:0]],
    "types": lambda x: [x > 1, (x > 1) + 1, (x > 1) + True, (x > 1) + 1.5, x.int() + 1, x.int() / 2, x.int() * 2.5],
    "zeros with a sign": lambda x: [1 / (x * 0.0), 1 / (x * -0.0), x.new_full((1,), -0.0), x.new_full((1,), 0.0)],
}


@pytest.mark.parametrize("program", METADATA.values(), ids=list(METADATA))
def test_metadata_follows(program: Program, worker: pt.Worker) -> None:
    for _ in range(2):  # the second time it is known what will come
        check_program(worker, program, matrix())


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")
def test_out_of_the_wrong_size_is_resized_as_torch_does(worker: pt.Worker) -> None:
    def program(x: Tensor) -> Tensor:
        out = x.new_zeros(3)
        torch.add(x, x, out=out)
        return out + 1

    check_program(worker, program, matrix())


def test_what_follows_a_change_of_metadata_computes_with_it(worker: pt.Worker) -> None:
    def program(x: Tensor) -> list[Tensor]:
        x.t_()
        first = x @ x.t()
        x.unsqueeze_(0)
        return [first, x.sum(1), x + 1, x[0, 1]]

    check_program(worker, program, matrix())


def test_only_the_pointer_that_was_named_changes(worker: pt.Worker) -> None:
    def program(x: Tensor) -> list[Tensor]:
        other = x.view(4, 6)
        alias = torch.ops.aten.alias(x)
        x.unsqueeze_(0)
        alias.t_()
        return [x, other, alias, other @ alias]

    check_program(worker, program, matrix())


# --- version counters


COUNTED: dict[str, Callable[[Tensor], object]] = {
    "untouched": lambda x: x + 1,
    "in place": lambda x: x.add_(1).mul_(2),
    "through a view": lambda x: x[0].add_(1),
    "through detach": lambda x: x.detach().add_(1),
    "through data": lambda x: x.data.add_(1),
    "setitem": lambda x: x.__setitem__(0, 1.0),
    "copy_": lambda x: x.copy_(torch.zeros(6)),
    "out": lambda x: torch.add(x, 1, out=x),
    "t_": lambda x: x.t_(),
    "foreach": lambda x: torch._foreach_add_([x], 1),
    "batch_norm": lambda x: torch.nn.functional.batch_norm(x.new_ones(4, 6), x[0], x[1].abs(), training=True),
    "data set": lambda x: setattr(x, "data", x.clone()),
}


@pytest.mark.parametrize("act", COUNTED.values(), ids=list(COUNTED))
def test_version_counters_count_as_locally(act: Callable[[Tensor], object], worker: pt.Worker) -> None:
    local = matrix()
    pointer = pt.send(local, worker)
    versions = []
    for tensor in (local, pointer):
        view = tensor[1:]
        act(tensor)
        versions.append((tensor._version, view._version))
    assert versions[0] == versions[1]


STALE: dict[str, Callable[[Tensor], Tensor]] = {
    "saved input": lambda w: in_between(w * 1, torch.square),
    "saved output": lambda w: in_between(w * 1, torch.exp, written="output"),
    "through a view": lambda w: in_between(w * 1, torch.square, written="view"),
    "through a detached alias": lambda w: in_between(w * 1, torch.square, written="detached"),
}


def in_between(x: Tensor, function: Callable[[Tensor], Tensor], written: str = "input") -> Tensor:
    """The sum of a function's result, with a write between the function and its backward."""
    result = function(x)
    targets = {"input": x, "output": result, "view": x[0], "detached": x.detach()}
    targets[written].add_(1)
    return result.sum()


@pytest.mark.parametrize("program", STALE.values(), ids=list(STALE))
def test_a_saved_tensor_that_was_written_to_is_an_error_as_locally(
    program: Callable[[Tensor], Tensor], worker: pt.Worker
) -> None:
    local = torch.randn(3, 2, requires_grad=True)
    for leaf in (local, pt.send(local, worker)):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            program(leaf).backward()


REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "a leaf in place": (lambda w: w.add_(1), "leaf Variable that requires grad"),
    "a view of a leaf in place": (lambda w: w[0].add_(1), "view of a leaf Variable that requires grad"),
    "a result of unbind in place": (lambda w: (w * 1).unbind()[0].add_(1), "multiple views"),
    "deepcopy of a non-leaf": (lambda w: (w * 1).__deepcopy__({}), "deep"),
    "requires_grad of a non-leaf": (lambda w: (w * 1).requires_grad_(False), "leaf variables"),
    "requires_grad of integers": (lambda w: w.detach().int().requires_grad_(), "floating point"),
    "wrong shapes": (lambda w: w @ w, "mat1 and mat2|reduction dim"),
    "wrong view": (lambda w: w.view(5), "invalid for input of size"),
    "view of a transposed one": (lambda w: w.t().view(-1), "view size is not compatible|Cannot view"),
    "index out of range": (lambda w: w[7], "out of bounds"),
    "wrong dimension": (lambda w: w.sum(5), "Dimension out of range"),
}


@pytest.mark.parametrize(("act", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_torch_refuses_is_refused_at_once_in_the_same_way(
    act: Callable[[Tensor], object],
    said: str,
    worker: pt.Worker,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    local = torch.randn(3, 2, requires_grad=True)
    pointer = pt.send(local, worker)
    with pytest.raises(Exception, match=said) as here:
        act(local)
    with pytest.raises(Exception, match=said) as there:
        act(pointer)
    assert issubclass(there.type, here.type)
    assert not caplog.records and capfd.readouterr() == ("", ""), "the error alone says it"


# --- views and autograd


def fill_a_row(w: Tensor) -> Tensor:
    x = w * 2
    x[0] = w[1].sin()
    return x.square().sum()


def write_to_a_view_of_a_view(w: Tensor) -> Tensor:
    x = w * 2
    x.t()[1].mul_(w[:, 0])
    return (x * w).sum()


def write_base_read_view(w: Tensor) -> Tensor:
    x = w * 1
    view = x[1:]
    x.mul_(3)
    return (view * view).sum()


def write_view_made_without_recording(w: Tensor) -> Tensor:
    x = w * 1
    with torch.no_grad():
        view = x[0]
        view.mul_(0)
    return x.sum()


def index_put(w: Tensor) -> Tensor:
    x = torch.zeros_like(w)
    x.index_put_((torch.tensor([0, 2, 0]),), w.sin(), accumulate=True)
    return x.exp().sum()


def masked(w: Tensor) -> Tensor:
    x = w * 1
    x[x > 0] = 0
    return (x * x).sum()


def assigned_leaf(w: Tensor) -> Tensor:
    buffer = torch.zeros_like(w)
    buffer[:, 0] = w[:, 1]
    buffer[:, 1].add_(w[:, 0])
    return (buffer * buffer).sum()


WITH_AUTOGRAD: dict[str, Callable[[Tensor], Tensor]] = {
    "fill a row": fill_a_row,
    "view of a view": write_to_a_view_of_a_view,
    "write to the base, read the view": write_base_read_view,
    "write to a view without recording": write_view_made_without_recording,
    "index_put": index_put,
    "masked": masked,
    "assigned": assigned_leaf,
    "as_strided": lambda w: w.as_strided((2, 2), (1, 2)).sin().sum(),
    "unfold": lambda w: w.unfold(0, 2, 1).square().sum(),
    "expand": lambda w: w.unsqueeze(0).expand(4, 3, 2).sin().sum(),
    "complex": lambda w: torch.view_as_complex(w).conj().imag.square().sum(),
    "diagonal": lambda w: w.diagonal().prod(),
    "split": lambda w: sum((part.sum() ** 2 for part in w.split(2)), torch.zeros((), device=w.device)),
}


@pytest.mark.parametrize("loss", WITH_AUTOGRAD.values(), ids=list(WITH_AUTOGRAD))
def test_gradients_through_views_and_writes(loss: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    def program(w: Tensor) -> Tensor:
        result = loss(w)
        result.backward()
        return result.detach()

    check_program(worker, program, torch.randn(3, 2, requires_grad=True))


def test_a_view_names_its_base(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(3), worker)
    assert pointer[0]._base is pointer and pointer._base is None
    assert pointer[0]._is_view() and not pointer._is_view()


# --- p.data = q


def test_data_stands_for_the_other_tensor(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(3, requires_grad=True), worker)
    other = pt.send(torch.arange(4.0).double(), worker)
    pointer.data = other
    assert pointer.id_at_location == other.id_at_location
    check_tensor(pointer, torch.arange(4.0).double().requires_grad_())
    other.add_(1)
    assert value(pointer * 2).tolist() == [2, 4, 6, 8]


def test_data_of_what_a_graph_saved_is_what_the_graph_reads_as_locally(worker: pt.Worker) -> None:
    def program(w: Tensor, x: Tensor) -> Tensor:
        loss = (w * x).sum()
        w.data = w.data * 10
        loss.backward()
        return (w * 1).detach()

    check_program(worker, program, torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True))


def test_the_data_that_was_replaced_is_freed(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(3), worker)
    before = held(worker)
    for _ in range(3):
        pointer.data = pointer + 1
    assert held(worker) == before and value(pointer).tolist() == [4, 4, 4]


def test_an_optimizer_goes_on_after_data_was_set(worker: pt.Worker) -> None:
    def program(w: Tensor) -> Tensor:
        parameter = torch.nn.Parameter(w)
        optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
        for step in range(4):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
            if step == 1:
                parameter.data = parameter.data.clamp(min=0)
            if step == 2:
                parameter.data.mul_(0.5)
        return parameter.detach()

    check_program(worker, program, torch.randn(3))


def test_data_set_to_a_local_tensor_brings_the_pointer_here(worker: pt.Worker) -> None:
    parameter = torch.nn.Parameter(pt.send(torch.ones(3), worker))
    parameter.square().sum().backward()
    parameter.data = torch.zeros(3)
    assert not pt.is_pointer(parameter) and isinstance(parameter, torch.nn.Parameter)
    assert parameter.tolist() == [0, 0, 0]


def test_data_set_to_another_workers_tensor_moves_the_pointer(worker: pt.Worker, second_worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(3), worker)
    other = pt.send(torch.zeros(2), second_worker)
    pointer.data = other
    assert pointer.location is second_worker and pointer.device == second_worker.device
    assert value(pointer + 1).tolist() == [1, 1]
