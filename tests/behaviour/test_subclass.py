"""A pointer is a tensor: what Python and torch expect of one holds, and what needs memory is refused clearly."""

import copy
import operator
import pickle
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from comparing import check_equal, check_program, check_tensor, held, value, waits
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.dlpack import from_dlpack

import ptrtensor as pt


@pytest.fixture
def pointer(worker: pt.Worker) -> pt.PointerTensor:
    return pt.send(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), worker)


# --- type


def test_every_result_is_a_pointer(pointer: pt.PointerTensor, worker: pt.Worker) -> None:
    results = [
        pointer + 1, pointer[0], pointer.t(), pointer.detach(), pointer.sum(), pointer.max(1).values, pointer.data,
        torch.zeros_like(pointer), pointer > 1, torch.split(pointer, 1)[0], copy.copy(pointer), copy.deepcopy(pointer),
        pointer.requires_grad_().exp(), pointer.copy(), torch.stack([pointer, pointer]), pointer.new_ones(2),
    ]  # fmt: skip
    for result in results:
        assert type(result) is pt.PointerTensor and pt.is_pointer(result) and result.location is worker
    assert isinstance(pointer, Tensor) and torch.is_tensor(pointer) and not isinstance(pointer, nn.Parameter)


def test_it_says_what_it_is(pointer: pt.PointerTensor, worker: pt.Worker) -> None:
    assert pointer.device == worker.device and pointer.device.type != "cpu" and pointer.get_device() > 0
    assert pointer.layout is torch.strided and pointer.is_contiguous() and not pointer.is_cuda and not pointer.is_cpu
    assert pointer.element_size() == 4 and pointer.nbytes == 24 and pointer.itemsize == 4
    assert pointer.numel() == 6 and pointer.ndim == 2 and pointer.size(1) == 3 and pointer.storage_offset() == 0
    assert not pointer.is_sparse and not pointer.is_quantized and not pointer.is_nested and not pointer.is_meta
    assert pointer.is_floating_point() and not pointer.is_complex() and not pointer.is_inference()


def test_is_pointer() -> None:
    for other in (torch.ones(2), nn.Parameter(torch.ones(2)), 1, None, "pointer"):
        assert not pt.is_pointer(other)


def test_a_parameter_of_a_pointer(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2), worker)
    parameter = nn.Parameter(pointer)
    assert isinstance(parameter, nn.Parameter) and pt.is_pointer(parameter) and parameter.is_leaf
    assert parameter.requires_grad and not pointer.requires_grad and parameter.location is worker
    assert not isinstance(parameter + 1, nn.Parameter) and not isinstance(parameter.detach(), nn.Parameter)
    (parameter * 2).sum().backward()
    assert pt.is_pointer(parameter.grad) and value(parameter.grad).tolist() == [2, 2]
    frozen = nn.Parameter(pointer, requires_grad=False)
    assert isinstance(frozen, nn.Parameter) and not frozen.requires_grad
    assert isinstance(nn.Buffer(pointer), nn.Buffer)
    for twin in (copy.copy(parameter), copy.deepcopy(parameter)):
        assert isinstance(twin, nn.Parameter) and twin.requires_grad and pt.is_pointer(twin)


def test_requires_grad(pointer: pt.PointerTensor) -> None:
    assert pointer.requires_grad_() is pointer and pointer.requires_grad and pointer.is_leaf
    pointer.requires_grad = False
    assert not pointer.requires_grad


def test_the_list_of_what_another_process_holds_is_read_only(process_worker: pt.ProcessWorker) -> None:
    pointer = pt.send(torch.ones(2), process_worker)
    objects: Any = process_worker.objects
    with pytest.raises(TypeError):
        objects[1] = torch.ones(2)
    assert objects[pointer.id_at_location].shape == (2,)


def test_a_pointer_is_not_made_by_its_class() -> None:
    make: Any = pt.PointerTensor
    for arguments in ((), ([1.0],), (torch.ones(2),)):
        with pytest.raises(pt.UnsupportedOpError, match=r"send\(tensor, worker\)"):
            make(*arguments)


# --- words


def test_repr_says_where(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2, 3, dtype=torch.float64), worker)
    with waits(worker, 0):
        pattern = (
            rf"PointerTensor\(me:\d+ -> {worker.id}:{pointer.id_at_location}, shape=\(2, 3\), dtype=torch.float64\)"
        )
        assert re.fullmatch(pattern, repr(pointer)) and str(pointer) == repr(pointer)
        assert repr([pointer]) == f"[{pointer!r}]"
    assert "'" not in repr(pointer)
    pointer.tag("blood", "2024")
    assert "blood" in repr(pointer) and "2024" in repr(pointer)
    assert repr(pointer).split()[0] == f"PointerTensor(me:{pointer.id}"


@pytest.mark.parametrize("tensor", [torch.tensor(1.0), torch.empty(0), torch.ones(1, requires_grad=True) * 2])
def test_repr_of_any_pointer(tensor: Tensor, worker: pt.Worker) -> None:
    with waits(worker, 0):
        pointer = pt.send(tensor, worker)
        assert "PointerTensor(me:" in repr(pointer)
        assert "PointerTensor(me:" in repr(nn.Parameter(pointer.detach()))


def test_repr_says_what_requires_grad_and_what_is_a_parameter(worker: pt.Worker) -> None:
    pointer = torch.ones(2, device=worker.device)
    assert "grad" not in repr(pointer)
    for requiring in (pointer.clone().requires_grad_(), pointer.clone().requires_grad_() * 2):
        assert ", dtype=torch.float32, requires_grad=True)" in repr(requiring)
    parameter = nn.Parameter(pointer)
    assert repr(parameter).startswith("Parameter containing:\nPointerTensor(") and "requires_grad=True" in repr(
        parameter
    )
    assert "requires_grad" not in repr(parameter.requires_grad_(False))


def test_a_module_with_pointers_prints(worker: pt.Worker) -> None:
    module = pt.send(nn.Sequential(nn.Linear(2, 2), nn.ParameterList([torch.ones(1)])), worker)
    with waits(worker, 0):
        assert "Linear(in_features=2" in repr(module)


# --- attributes


def test_names(pointer: pt.PointerTensor, worker: pt.Worker) -> None:
    assert pointer.location is worker and pointer.owner is pt.local_worker
    assert pointer.id_at_location in worker.objects
    other = pointer.copy()
    assert pointer.id == pointer.id and pointer.id != other.id and pointer.id_at_location != other.id_at_location
    for name in ("location", "id_at_location", "owner"):
        with pytest.raises(AttributeError):
            setattr(pointer, name, None)


def test_objects_are_read_only(virtual_worker: pt.VirtualWorker) -> None:
    pointer = pt.send(torch.ones(2), virtual_worker)
    objects: Any = virtual_worker.objects
    with pytest.raises(TypeError):
        objects[1] = torch.ones(2)
    with pytest.raises(TypeError):
        del objects[pointer.id_at_location]
    assert objects[pointer.id_at_location].tolist() == [1, 1]


def test_tags_and_descriptions_are_found(worker: pt.Worker, second_worker: pt.Worker) -> None:
    first = pt.send(torch.ones(2), worker).tag("#blood", "#2024").describe("pressure of 2024")
    second = pt.send(torch.zeros(3), worker).tag("#blood")
    untagged = pt.send(torch.zeros(3), worker)
    assert first.tags == {"#blood", "#2024"} and first.description == "pressure of 2024"
    assert second.description == "" and untagged.tags == set()

    found = worker.search("#blood")
    assert sorted(tuple(p.shape) for p in found) == [(2,), (3,)]
    (both,) = worker.search("#blood", "#2024")
    assert pt.is_pointer(both)
    assert both.tags == first.tags and both.description == first.description and both.location is worker
    assert worker.search("#other") == [] and second_worker.search("#blood") == []
    check_tensor(both + 1, torch.full((2,), 2.0))
    first.add_(1)
    assert value(both).tolist() == [2, 2], "it is the same object"
    second.tag("#more")
    assert [pt.is_pointer(p) and p.tags for p in worker.search("#more")] == [{"#blood", "#more"}]


def test_tags_stay_with_what_is_changed_in_place(worker: pt.Worker) -> None:
    pointer = pt.send(torch.zeros(2, 3), worker).tag("#kept").describe("zeros")
    pointer.add_(1)
    pointer.t_()
    pointer.unsqueeze_(0)
    (found,) = worker.search("#kept")
    assert pt.is_pointer(found) and found.shape == (1, 3, 2) and found.description == "zeros"
    assert pointer.tags == {"#kept"} and pointer.id_at_location in worker.objects


def test_what_is_gone_is_not_found(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2), worker).tag("#gone")
    (found,) = worker.search("#gone")
    del found
    pt.get(pointer)
    assert worker.search("#gone") == []


def test_own_attributes_stay(pointer: pt.PointerTensor) -> None:
    anything: Any = pointer
    anything.note = "mine"
    assert anything.note == "mine" and copy.deepcopy(anything).note == "mine"
    assert not hasattr(pointer + 1, "note")


# --- Python's protocols


def test_it_is_one_object_among_others(pointer: pt.PointerTensor) -> None:
    other = pointer.detach()
    numbers = {pointer: 1, other: 2}
    assert numbers[pointer] == 1 and numbers[other] == 2 and len({pointer, pointer, other}) == 2
    assert hash(pointer) == hash(pointer) and pointer in numbers
    reference = weakref.ref(pointer)
    assert reference() is pointer


def test_copies(pointer: pt.PointerTensor, worker: pt.Worker) -> None:
    pointer.requires_grad_()
    pointer.grad = torch.ones_like(pointer)
    shallow, deep = copy.copy(pointer), copy.deepcopy(pointer)
    assert shallow is not pointer and pt.is_pointer(shallow) and pt.is_pointer(deep)
    with torch.no_grad():
        pointer.zero_()
    assert value(shallow).count_nonzero() == 0, "a shallow copy shares the value"
    assert value(deep).count_nonzero() == 6 and deep.requires_grad and deep.is_leaf
    assert pt.is_pointer(deep.grad) and value(deep.grad).eq(1).all() and deep.grad is not pointer.grad
    assert deep.location is worker and deep.id_at_location != pointer.id_at_location
    pair = copy.deepcopy([pointer, pointer])
    assert pair[0] is pair[1]


def test_pickles_hold_values(pointer: pt.PointerTensor) -> None:
    pointer.requires_grad_()
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        loaded = pickle.loads(pickle.dumps({"a": pointer, "view": pointer.detach()[0]}, protocol))
        assert type(loaded["a"]) is Tensor and loaded["a"].requires_grad
        assert loaded["a"].tolist() == pointer.tolist() and loaded["view"].tolist() == [1, 2, 3]


def test_iteration(pointer: pt.PointerTensor, worker: pt.Worker) -> None:
    with waits(worker, 0):
        rows = list(pointer)
        assert len(pointer) == 2 and [tuple(row.shape) for row in rows] == [(3,), (3,)]
        first, second = pointer
        assert len(list(zip(pointer, rows, strict=True))) == 2 and len(list(reversed(pointer))) == 2
    check_equal([first, second], [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])], worker)
    with pytest.raises(TypeError, match="0-d"):
        iter(pointer[0, 0])
    with pytest.raises(TypeError, match="0-d"):
        len(pointer[0, 0])


def test_membership(pointer: pt.PointerTensor) -> None:
    assert 2.0 in pointer and 9.0 not in pointer


OPERATORS: dict[str, Callable[[Tensor, Tensor], object]] = {
    **{
        name: getattr(operator, name)
        for name in "add sub mul truediv floordiv mod pow lt le gt ge eq ne iadd isub imul itruediv".split()
    },
    "matmul": lambda a, b: a @ b.t(),
    "neg": lambda a, b: -a,
    "pos": lambda a, b: +a,
    "abs": lambda a, b: abs(a - b),
    "invert": lambda a, b: ~(a > b),
    "and": lambda a, b: (a > 2) & (b > 2),
    "or": lambda a, b: (a > 2) | (b > 2),
    "xor": lambda a, b: (a > 2) ^ (b > 2),
    "shift": lambda a, b: (a.int() << 2) >> 1,
    "number on the left": lambda a, b: [1 + a, 10 - a, 2 * a, 1 / a, 2**a, 7 // a, 7 % a, 3 > a],
    "number on the right": lambda a, b: [a + 1, a - 0.5, a * True, a / 2, a**2, a // 2, a % 2, a == 3],
    "0-dim local": lambda a, b: [a + torch.tensor(2.0), torch.tensor(2.0) * a, a.clamp(torch.tensor(2.0))],
    "0-dim local of another dtype": lambda a, b: [a.int() * torch.tensor(2.5), a + torch.tensor(2.0).double()],
    "in place with a 0-dim local": lambda a, b: a.mul_(torch.tensor(3.0)),
    "numpy number": lambda a, b: [
        operator.mul(a, numpy.float32(2.5)),
        operator.add(a, numpy.int64(1)),
        a[numpy.int64(1)],
    ],
    "numpy number on the left": lambda a, b: numpy.float64(2.0) * a,
    "round": lambda a, b: (a / 3).round(decimals=1),
    "three": lambda a, b: torch.addcmul(a, a, b, value=2),
    "lists": lambda a, b: [torch.cat([a, b]), torch.stack((a, b), 1), torch.block_diag(a, b)],
    "meshgrid": lambda a, b: torch.meshgrid(a[0], b[0], indexing="ij"),
    "named tuples": lambda a, b: [a.max(dim=1), torch.sort(b), torch.topk(a, 2), torch.linalg.qr(a).R.abs()],
    "where": lambda a, b: [torch.where(a > 2, a, b), torch.where(a > 2, a, 0.0), torch.where(a > 2)],
    "einsum": lambda a, b: torch.einsum("ij,kj->ik", a, b),
    "type": lambda a, b: [a.double(), a.to(torch.int32), a.type(torch.float16), a.type_as(b.int()), a.bool()],
    "sum of a list": lambda a, b: sum([a, b]),
    "max of values": lambda a, b: [torch.max(a), torch.maximum(a, b), a.amax(0), a.argmax()],
}


@pytest.mark.parametrize("program", OPERATORS.values(), ids=list(OPERATORS))
def test_operators(program: Callable[[Tensor, Tensor], object], worker: pt.Worker) -> None:
    for _ in range(2):
        check_program(worker, program, torch.arange(1.0, 7).view(2, 3), torch.full((2, 3), 2.0))


INDICES: dict[str, object] = {
    "number": 1,
    "negative": -1,
    "slice": slice(None, None, 2),
    "slices": (slice(1, None), slice(0, 2)),
    "ellipsis": (..., 1),
    "None": (None, 0),
    "list": [1, 0],
    "lists": ([0, 1], [2, 0]),
    "local indices": torch.tensor([1, 1, 0]),
    "local indices of two dimensions": torch.tensor([[1], [0]]),
    "local number": torch.tensor(1),
    "local numbers": (torch.tensor(1), torch.tensor(0)),
    "local mask": torch.tensor([True, False]),
    "local mask of all": torch.tensor([[True, False, True], [False, True, False]]),
    "local indices and slices": (torch.tensor([1, 0]), slice(0, 2)),
    "array": numpy.array([1, 0]),
    "empty": [],
    "boolean": True,
}


@pytest.mark.parametrize("index", INDICES.values(), ids=list(INDICES))
def test_indexing(index: Any, worker: pt.Worker) -> None:
    def program(x: Tensor) -> list[Tensor]:
        read = x[index].clone()
        x[index] = 0
        x[index] += 5
        x[index] = read * 2
        return [read, x]

    check_program(worker, program, torch.arange(1.0, 7).view(2, 3))


@pytest.mark.parametrize("index", [[1, 0], [True, False]], ids=["indices", "mask"])
def test_pointers_as_indices(index: list[int], worker: pt.Worker) -> None:
    def program(x: Tensor, at: Tensor) -> list[Tensor]:
        read = x[at].clone()
        x[at] = -1
        return [read, x, x[at, 0], torch.zeros(2, device=x.device).index_put_((at,), x[0, 0])]

    check_program(worker, program, torch.arange(1.0, 7).view(2, 3), torch.tensor(index))


INTO_LOCAL: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {
    "by indices": lambda here, p, at: here.__setitem__(torch.tensor([0, 1]), p),
    "by a mask": lambda here, p, at: here.__setitem__(torch.tensor([True, True, False]), p),
    "index_put_": lambda here, p, at: here.index_put_((torch.tensor([0, 1]),), p),
    "at a pointer": lambda here, p, at: here.__setitem__(at, 1.0),
    "add_ to a number": lambda here, p, at: here[0].add_(p[0]),
    "mul_ of a number": lambda here, p, at: here[0].mul_(p[0]),
    "lerp_ of a number": lambda here, p, at: here[0].lerp_(p[0], 0.5),
    "out": lambda here, p, at: torch.add(p, p, out=here[:2]),
    "out is a number": lambda here, p, at: torch.sum(p, dim=0, out=here[0]),
    "foreach": lambda here, p, at: torch._foreach_add_([here[0]], [p[0]]),
    "fill_": lambda here, p, at: here.fill_(p[0]),
    "masked_fill_": lambda here, p, at: here[:2].masked_fill_(p > 7.5, 9.0),
    "index_add_": lambda here, p, at: here.index_add_(0, torch.tensor([0, 1]), p),
    "scatter_": lambda here, p, at: here.scatter_(0, torch.tensor([0, 1]), p),
}


@pytest.mark.parametrize("write", INTO_LOCAL.values(), ids=list(INTO_LOCAL))
def test_a_write_into_a_local_tensor_is_refused_and_never_lost(
    write: Callable[[Tensor, Tensor, Tensor], object], worker: pt.Worker
) -> None:
    here, there, at = torch.ones(3), pt.send(torch.tensor([7.0, 8.0]), worker), pt.send(torch.tensor([2, 0]), worker)
    with pytest.raises(pt.WorkerMismatchError, match=worker.id):
        write(here, there, at)
    assert here.tolist() == [1, 1, 1] and value(there).tolist() == [7, 8]


READ_LOCAL: dict[str, Callable[[Tensor, Tensor], object]] = {
    "index": lambda here, at: here[at],
    "index of one dimension": lambda here, at: here[:, at],
    "gather": lambda here, at: here.gather(0, at.view(1, 2)),
    "index_select": lambda here, at: here.index_select(0, at),
    "take": lambda here, at: here.take(at),
    "embedding": lambda here, at: nn.functional.embedding(at, here),
    "index_put": lambda here, at: here.index_put((torch.tensor([0]),), at[:1].float()),
}


@pytest.mark.parametrize("read", READ_LOCAL.values(), ids=list(READ_LOCAL))
def test_a_local_table_is_not_taken_to_the_worker(read: Callable[[Tensor, Tensor], object], worker: pt.Worker) -> None:
    here, at = torch.arange(6.0).view(3, 2), pt.send(torch.tensor([1, 0]), worker)
    with pytest.raises(pt.WorkerMismatchError, match=worker.id):
        read(here, at)


def test_slices_of_a_local_tensor_take_values_as_copy_does(worker: pt.Worker) -> None:
    here, there = torch.ones(3), pt.send(torch.tensor([7.0, 8.0]), worker)
    here[:2] = there
    here[2] = there[0]
    assert here.tolist() == [7, 8, 7]


def test_trees(pointer: pt.PointerTensor, worker: pt.Worker) -> None:
    tree = {"a": [pointer, (pointer + 1, 3)], "b": None}
    mapped = pytree.tree_map_only(Tensor, lambda tensor: tensor * 2, tree)
    leaves = [leaf for leaf in pytree.tree_leaves(mapped) if isinstance(leaf, Tensor)]
    assert all(pt.is_pointer(leaf) for leaf in leaves)
    assert [value(leaf).sum().item() for leaf in leaves] == [42, 54]


@pytest.mark.parametrize("kind", [float, int, complex, bool, lambda p: p.item(), lambda p: [0][p]])
def test_many_values_are_no_number(kind: Callable[[Any], object], worker: pt.Worker) -> None:
    for tensor in (torch.ones(2, 3), torch.empty(0)):
        with pytest.raises(Exception, match=".") as here:
            kind(tensor)
        with pytest.raises(here.type, match=re.escape(str(here.value))):
            kind(pt.send(tensor, worker))


@pytest.mark.parametrize("kind", [float, int, complex, bool])
def test_numbers(kind: Callable[[Any], object], worker: pt.Worker) -> None:
    for number in (torch.tensor(2.0), torch.tensor([3]), torch.tensor([[True]]), torch.tensor(0.0)):
        found, expected = kind(pt.send(number, worker)), kind(number)
        assert type(found) is type(expected) and found == expected


# --- what needs memory


def twice(x: Tensor) -> Tensor:
    return x * 2


own_operation: Callable[[Tensor], Tensor] = torch.library.custom_op("ptrtensor_tests::twice", mutates_args=())(twice)
"""An operation of somebody's own, which a worker does not have."""


REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "numpy": (lambda p: p.numpy(), r"\.cpu\(\)"),
    "numpy.asarray": (numpy.asarray, r"\.cpu\(\)"),
    "numpy.array": (numpy.array, r"\.cpu\(\)"),
    "numpy function": (numpy.sin, r"\.cpu\(\)"),
    "an array": (lambda p: p * numpy.ones(3), r"torch\.from_numpy\(array\)\.to\(pointer\.device\)"),
    "data_ptr": (lambda p: p.data_ptr(), r"\.cpu\(\)"),
    "untyped_storage": (lambda p: p.untyped_storage(), r"\.cpu\(\).*safetensors.*\{name: value\.cpu\(\)\}"),
    "storage": (lambda p: p.storage(), r"\.cpu\(\)"),
    "share_memory_": (lambda p: p.share_memory_(), r"\.cpu\(\)"),
    "DLPack": (lambda p: p.__dlpack__(), "lazy"),
    "from_dlpack": (from_dlpack, "lazy"),
    "numpy.from_dlpack": (numpy.from_dlpack, "lazy"),
    "pin_memory": (lambda p: p.pin_memory(), r"\.cpu\(\)|pin|accelerator"),
    "to_sparse": (lambda p: value(p.to_sparse()), r"layout.*after \.cpu\(\)"),
    "to_sparse_csr": (lambda p: value(p.to_sparse_csr()), "(?i)sparse|layout"),
    "to_mkldnn": (lambda p: p.to_mkldnn(), "(?i)mkldnn|layout|dense CPU"),
    "set_ with a local tensor": (lambda p: torch.ops.aten.set_(p, torch.ones(2)), r"send\(\)"),
    "own operation": (own_operation, "own operations"),
}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*(beta|prototype):UserWarning")
@pytest.mark.parametrize(("act", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_needs_memory_or_another_layout_is_refused_with_the_way_round(
    act: Callable[[Tensor], object], said: str, pointer: pt.PointerTensor
) -> None:
    with pytest.raises((pt.PtrTensorError, TypeError, RuntimeError, ValueError, BufferError), match=said):
        act(pointer)
    assert value(pointer).sum() == 21, "and nothing is lost"


def test_numpy_by_force(worker: pt.Worker) -> None:
    for tensor in (
        torch.ones(2, requires_grad=True),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
    ):
        array = pt.send(tensor, worker).numpy(force=True)
        assert isinstance(array, numpy.ndarray) and array.tolist() == tensor.tolist()


def test_mixing_names_the_operation_the_places_and_the_mend(worker: pt.Worker, second_worker: pt.Worker) -> None:
    one, other, here = pt.send(torch.ones(2), worker), pt.send(torch.ones(2), second_worker), torch.ones(2)
    with pytest.raises(pt.WorkerMismatchError) as caught:
        torch.add(one, other)
    for word in ("add", f"self at worker {worker.id}", f"other at worker {second_worker.id}", "move()"):
        assert word in str(caught.value)
    with pytest.raises(pt.WorkerMismatchError) as caught:
        here - one
    for word in ("sub", "self here (cpu", f"other at worker {worker.id}", "send()"):
        assert word in str(caught.value)
    with pytest.raises(pt.WorkerMismatchError, match=r"(?s)cat.*send\(\)"):
        torch.cat([one, here])
    with pytest.raises(pt.WorkerMismatchError, match=r"(?s)linear|addmm|addmv|mv"):
        nn.functional.linear(one, here.view(1, 2))
    with pytest.raises(pt.WorkerMismatchError):
        torch.add(one, 1, out=here)
    with pytest.raises(pt.WorkerMismatchError):
        here.add_(one)
    assert value(one).tolist() == value(other).tolist() == here.tolist() == [1, 1]


def test_an_error_leaves_nothing_behind(pointer: pt.PointerTensor, worker: pt.Worker) -> None:
    before = held(worker)
    acts: list[Callable[[], object]] = [
        lambda: pointer @ pointer,
        lambda: pointer + torch.ones(2, 3),
        lambda: pointer.view(7),
    ]
    for act in acts:
        with pytest.raises((RuntimeError, pt.PtrTensorError)):
            act()
    assert held(worker) == before
    worker.synchronize()
