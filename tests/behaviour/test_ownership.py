"""Who holds what (D4): send copies, get takes away, cpu() looks, move carries on; one graph may span all places."""

import contextlib
import copy
import io
import linecache
import re
from collections.abc import Callable

import pytest
import torch
from collecting import collect
from comparing import check_tensor, held, value, waits
from torch import Tensor

import ptrtensor as pt

# --- send: values


def complex_values() -> Tensor:
    return torch.randn(2, 3, dtype=torch.complex64)


VALUES: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.randn(2, 3),
    "transposed": lambda: torch.randn(2, 3).t(),
    "permuted": lambda: torch.randn(2, 3, 4).permute(2, 0, 1),
    "every second": lambda: torch.randn(4, 6)[::2, ::2],
    "every second of a transposed one": lambda: torch.randn(4, 6).t()[::2, ::2],
    "with an offset": lambda: torch.arange(10)[3:7],
    "expanded": lambda: torch.randn(3, 1).expand(3, 4),
    "expanded in front": lambda: torch.randn(3).expand(4, 3),
    "expanded number": lambda: torch.tensor(2.5).expand(2, 2),
    "overlapping windows": lambda: torch.arange(6.0).unfold(0, 3, 1),
    "0-dim": lambda: torch.tensor(3.5),
    "empty": lambda: torch.empty(0),
    "empty with dimensions": lambda: torch.empty(2, 0, 3),
    "conjugated": lambda: complex_values().conj(),
    "conjugated and transposed": lambda: complex_values().mH,
    "negated": lambda: complex_values().conj().imag,
    "real part": lambda: complex_values().real,
    "channels_last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda: torch.randn(2, 3, 4, 5, 2).to(memory_format=torch.channels_last_3d),
    "not finite": lambda: torch.tensor([float("nan"), float("inf"), -0.0]),
    "zeros without memory": lambda: torch._efficientzerotensor(2, 3),
    "in inference mode": torch.inference_mode()(lambda: torch.randn(3)),
}

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


@pytest.mark.parametrize("make", VALUES.values(), ids=list(VALUES))
def test_send_keeps_values_and_strides_as_to_does(make: Callable[[], Tensor], worker: pt.Worker) -> None:
    tensor = make()
    as_torch_does = torch.empty_like(tensor).copy_(tensor)
    check_tensor(pt.send(tensor, worker), as_torch_does)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_goes_there_and_back(dtype: torch.dtype, worker: pt.Worker) -> None:
    tensor = torch.tensor([[0, 1, 2], [1, 0, 1]]).to(dtype)
    pointer = pt.send(tensor, worker)
    assert pointer.dtype == dtype
    back = pt.get(pointer)
    assert back.dtype == dtype
    assert torch.equal(back.to(torch.complex128), tensor.to(torch.complex128))


@pytest.mark.parametrize("elements", [4, 3_000_000], ids=["small", "large"])
def test_send_takes_what_the_tensor_holds_at_the_call(elements: int, worker: pt.Worker) -> None:
    tensor = torch.zeros(elements)
    pointer = pt.send(tensor, worker)
    tensor.fill_(1)
    assert value(pointer).count_nonzero() == 0


@pytest.mark.parametrize("elements", [4, 3_000_000], ids=["small", "large"])
def test_what_was_fetched_and_what_is_there_are_two_tensors(elements: int, worker: pt.Worker) -> None:
    pointer = pt.send(torch.zeros(elements), worker)
    fetched = pointer.cpu()
    fetched.fill_(1)
    assert value(pointer).count_nonzero() == 0
    pointer.fill_(2)
    assert fetched.eq(1).all()


def test_send_leaves_the_local_tensor_as_it_was(worker: pt.Worker) -> None:
    tensor = torch.randn(3, requires_grad=True)
    tensor.square().sum().backward()
    grad, version, bits = tensor.grad, tensor._version, tensor.tolist()
    pointer = pt.send(tensor, worker)
    with torch.no_grad():
        pointer.zero_()
    assert pointer.grad is not None
    pointer.grad.zero_()
    assert tensor.is_leaf and tensor.requires_grad and tensor._version == version
    assert tensor.grad is grad and tensor.tolist() == bits and grad is not None and grad.count_nonzero() == 3


@pytest.mark.parametrize("size", [3, 500_000])
def test_what_crossed_can_be_resized_like_any_other_tensor(worker: pt.Worker, size: int) -> None:
    tensor = torch.ones(size)
    pointer = pt.send(tensor, worker)
    assert tensor.resize_(2 * size).shape == (2 * size,), "the tensor that was sent"
    assert value(pointer.resize_(size + 1)[:3]).tolist() == [1, 1, 1], "the one at the worker"
    assert value(pointer.resize_(2 * size)[:3]).tolist() == [1, 1, 1], "also after it was looked at"
    assert pointer.cpu().resize_(3 * size).shape == (3 * size,), "the one that was fetched"
    assert pt.get(pointer).resize_(3 * size).shape == (3 * size,), "the one that was taken away"


def test_a_leaf_takes_its_gradient_along(worker: pt.Worker) -> None:
    tensor = torch.randn(3, requires_grad=True)
    tensor.square().sum().backward()
    pointer = pt.send(tensor, worker)
    check_tensor(pointer, tensor)
    assert pt.is_pointer(pointer.grad) and pointer.grad.location is worker
    assert tensor.grad is not None
    check_tensor(pointer.grad, tensor.grad)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_leaf_gives_a_leaf(requires_grad: bool, worker: pt.Worker) -> None:
    tensor = torch.randn(3, requires_grad=requires_grad)
    for mode in (contextlib.nullcontext(), torch.no_grad(), torch.enable_grad()):
        with mode:
            pointer = pt.send(tensor, worker)
        assert pointer.is_leaf and pointer.requires_grad is requires_grad and pointer.grad is None


def test_gradients_of_a_non_leaf_come_back(worker: pt.Worker) -> None:
    leaf = torch.randn(3, requires_grad=True)
    expected = leaf.detach().clone().requires_grad_()
    (expected * 2).square().sum().backward()

    pointer = pt.send(leaf * 2, worker)
    assert not pointer.is_leaf and pointer.requires_grad
    pointer.square().sum().backward()
    assert leaf.grad is not None and expected.grad is not None and not pt.is_pointer(leaf.grad)
    check_tensor(leaf.grad, expected.grad)


def test_without_recording_a_non_leaf_is_just_a_value(worker: pt.Worker) -> None:
    result = torch.ones(3, requires_grad=True) * 2
    with torch.no_grad():
        pointer = pt.send(result, worker)
    assert not pointer.requires_grad


def test_a_worker_sends_too(worker: pt.Worker) -> None:
    tensor = torch.randn(3)
    check_tensor(worker.send(tensor), tensor)


# --- send: what is refused


def test_a_pointer_cannot_be_sent_again(worker: pt.Worker, second_worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2), worker)
    for target in (worker, second_worker):
        with pytest.raises(pt.UnsupportedOpError, match=rf"pointer to worker {worker.id}.*move\(\)"):
            pt.send(pointer, target)
    assert value(pointer).tolist() == [1, 1]


@pytest.mark.filterwarnings("ignore:.*(beta|prototype|deprecated).*:UserWarning")  # torch's own of these layouts
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: torch.eye(2).to_sparse(), "sparse_coo"),
        (lambda: torch.eye(2).to_sparse_csr(), "sparse_csr"),
        (lambda: torch.eye(2).to_sparse_csc(), "sparse_csc"),
        (lambda: torch.eye(2).to_sparse_bsr((1, 1)), "sparse_bsr"),
        (lambda: torch.eye(2).to_mkldnn(), "mkldnn"),
        (lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.quint8), "quantized"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "jagged|nested"),
    ],
    ids=["coo", "csr", "csc", "bsr", "mkldnn", "quantized", "nested", "jagged"],
)
def test_other_layouts_are_refused_by_name(make: Callable[[], Tensor], named: str, worker: pt.Worker) -> None:
    with pytest.raises(pt.UnsupportedOpError, match=named):
        pt.send(make(), worker)
    assert value(pt.send(torch.ones(2), worker)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.empty(2, device="meta"), "meta tensor"),
        (lambda: torch.nn.LazyLinear(2).weight, "uninitialized parameter"),
    ],
    ids=["meta", "uninitialized"],
)
def test_what_has_no_values_is_refused_as_by_to(make: Callable[[], Tensor], said: str, worker: pt.Worker) -> None:
    with pytest.raises((NotImplementedError, ValueError, pt.UnsupportedOpError), match=said):
        pt.send(make(), worker)


def test_a_closed_worker_takes_nothing(make_worker: Callable[[str], pt.Worker]) -> None:
    worker = make_worker("virtual")
    worker.close()
    with pytest.raises(pt.WorkerLostError, match=worker.id):
        pt.send(torch.ones(2), worker)


# --- get


@pytest.mark.parametrize("make", VALUES.values(), ids=list(VALUES))
def test_get_brings_the_value(make: Callable[[], Tensor], worker: pt.Worker) -> None:
    tensor = make()
    back = pt.get(pt.send(tensor, worker))
    assert not pt.is_pointer(back) and type(back) is Tensor
    check_tensor(back, torch.empty_like(tensor).copy_(tensor))


def test_get_leaves_nothing_at_the_worker(worker: pt.Worker) -> None:
    before = held(worker)
    tensor = torch.randn(3, requires_grad=True)
    tensor.square().sum().backward()
    pointer = pt.send(tensor, worker)
    assert pointer.id_at_location in worker.objects and held(worker) == before + 2
    back = pointer.get()
    assert pointer.id_at_location not in worker.objects and held(worker) == before
    assert back.is_leaf and back.requires_grad and back.grad is not None and tensor.grad is not None
    check_tensor(back, tensor)
    check_tensor(back.grad, tensor.grad)


def test_a_dead_pointer_leaves_nothing_either(worker: pt.Worker) -> None:
    before = held(worker)
    pointer = pt.send(torch.randn(3), worker)
    result = pointer * 2 + 1
    del pointer, result
    assert held(worker) == before


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_leaf_comes_back_as_a_leaf(requires_grad: bool, worker: pt.Worker) -> None:
    back = pt.get(pt.send(torch.randn(3, requires_grad=requires_grad), worker))
    assert back.is_leaf and back.requires_grad is requires_grad and back.grad is None


def test_a_non_leaf_comes_back_differentiably(worker: pt.Worker) -> None:
    leaf = pt.send(torch.tensor([1.0, 2.0], requires_grad=True), worker)
    back = pt.get(leaf * 3)
    assert not back.is_leaf and not pt.is_pointer(back)
    (back * back).sum().backward()
    assert pt.is_pointer(leaf.grad) and leaf.grad.location is worker
    assert value(leaf.grad).tolist() == [18.0, 36.0]


def test_get_wants_a_pointer() -> None:
    with pytest.raises(pt.UnsupportedOpError, match="pointer"):
        pt.get(torch.ones(2))


USES: dict[str, Callable[[Tensor], object]] = {
    "get": pt.get,
    "add": lambda p: p + 1,
    "add on the right": lambda p: 1 + p,
    "sum": lambda p: p.sum(),
    "in place": lambda p: p.add_(1),
    "view": lambda p: p[0],
    "detach": lambda p: p.detach(),
    "data": lambda p: p.data,
    "cpu": lambda p: p.cpu(),
    "item": lambda p: p.item(),
    "float": float,
    "bool": bool,
    "tolist": lambda p: p.tolist(),
    "copy to": lambda p: torch.zeros(1).copy_(p),
    "copy from": lambda p: p.copy_(torch.zeros(1)),
    "zeros_like": torch.zeros_like,
    "clone": torch.clone,
    "copy": lambda p: p.copy() if pt.is_pointer(p) else None,
    "tag": lambda p: p.tag("a") if pt.is_pointer(p) else None,
    "describe": lambda p: p.describe("a") if pt.is_pointer(p) else None,
    "save": lambda p: torch.save(p, io.BytesIO()),
    "argument of cat": lambda p: torch.cat([p, p]),
    "resize": lambda p: p.resize_(3),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_a_spent_pointer_is_refused_and_the_line_is_named(use: Callable[[Tensor], object], worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(1), worker)
    pt.get(pointer)  # this line
    with pytest.raises(pt.SpentPointerError, match=r"get\(\)") as caught:
        use(pointer)
    assert re.search(rf'{re.escape(__file__)}", line \d+', str(caught.value))
    assert "pt.get(pointer)  # this line" in str(caught.value)


def test_the_line_that_is_named_is_where_get_was_called(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(1), worker)
    pointer.get()  # the method
    with pytest.raises(pt.SpentPointerError) as caught:
        pointer.get()
    found = re.search(r"line (\d+)", str(caught.value))
    assert found is not None
    assert "# the method" in linecache.getline(__file__, int(found[1]))


def test_a_spent_pointer_still_says_what_it_was(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2, 3), worker)
    pt.get(pointer)
    assert pointer.shape == (2, 3) and pointer.dtype == torch.float32 and "spent" in repr(pointer)


def test_get_through_an_alias_is_the_second_get(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2), worker)
    alias = pointer.detach()
    pt.get(pointer)
    with pytest.raises(pt.SpentPointerError, match="get"):
        pt.get(alias)
    with pytest.raises(pt.SpentPointerError, match="get"):
        alias + 1


def test_the_gradient_of_a_fetched_leaf_is_fetched_too(worker: pt.Worker) -> None:
    tensor = torch.ones(2, requires_grad=True)
    tensor.sum().backward()
    pointer = pt.send(tensor, worker)
    grad = pointer.grad
    assert grad is not None
    pt.get(pointer)
    with pytest.raises(pt.SpentPointerError):
        grad + 1


def test_a_get_that_fails_takes_nothing(make_worker: Callable[[str], pt.Worker]) -> None:
    worker = make_worker("virtual")
    table = pt.send(torch.ones(3, 2), worker)
    wrong = torch.nn.functional.embedding(pt.send(torch.tensor([7]), worker), table)
    for _ in range(2):
        with pytest.raises(pt.RemoteOpError):
            pt.get(wrong)
    assert pt.get(table).tolist() == [[1, 1]] * 3


# --- get of what a graph still needs


def test_a_gradient_that_reaches_a_spent_leaf_is_refused(worker: pt.Worker) -> None:
    leaf = pt.send(torch.tensor([1.0, 2.0], requires_grad=True), worker)
    other = pt.send(torch.tensor([1.0, 2.0], requires_grad=True), worker)
    result = (leaf * leaf * other).sum()
    pt.get(leaf)  # the leaf goes
    with pytest.raises(pt.SpentPointerError, match="the leaf goes"):
        result.backward()


@pytest.mark.parametrize("verb", ["get", "move"])
def test_a_graph_keeps_the_values_that_it_needs(verb: str, worker: pt.Worker, second_worker: pt.Worker) -> None:
    take: Callable[[Tensor], Tensor] = pt.get if verb == "get" else lambda p: pt.move(p, second_worker)
    leaf = pt.send(torch.tensor([1.0, 2.0], requires_grad=True), worker)
    middle = leaf.exp()
    result = (middle * middle).sum()
    check_tensor(take(middle).detach(), torch.tensor([1.0, 2.0]).exp(), 1e-6)
    with pytest.raises(pt.SpentPointerError):
        middle + 1
    result.backward()
    assert leaf.grad is not None
    check_tensor(leaf.grad, 2 * torch.tensor([2.0, 4.0]).exp(), 1e-5)


def test_a_value_saved_as_an_input_and_not_a_leaf_can_be_fetched(worker: pt.Worker) -> None:
    data = pt.send(torch.tensor([1.0, 2.0]), worker)
    leaf = pt.send(torch.tensor([3.0, 4.0], requires_grad=True), worker)
    result = (data * leaf).sum()
    assert pt.get(data).tolist() == [1.0, 2.0]
    result.backward()
    assert leaf.grad is not None and value(leaf.grad).tolist() == [1.0, 2.0]


def test_what_a_graph_keeps_is_not_listed_and_freed_after(worker: pt.Worker) -> None:
    before = held(worker)
    data = pt.send(torch.tensor([1.0, 2.0]), worker)
    leaf = pt.send(torch.tensor([3.0, 4.0], requires_grad=True), worker)
    result = (data * leaf).sum()
    name = data.id_at_location
    assert name in worker.objects
    pt.get(data)
    assert name not in worker.objects
    assert held(worker) == before + 3, "data for the graph, leaf and result"
    result.backward()
    del data
    assert held(worker) == before + 3, "leaf, its gradient and result"
    del leaf, result
    assert held(worker) == before


def test_get_of_a_view_or_of_a_base_removes_that_name_alone(worker: pt.Worker) -> None:
    base = pt.send(torch.arange(4.0), worker)
    view = base[1:3]
    other = base[2:]
    assert pt.is_pointer(view) and view.id_at_location in worker.objects
    assert pt.get(view).tolist() == [1, 2]
    assert view.id_at_location not in worker.objects and base.id_at_location in worker.objects
    base.add_(1)
    assert pt.get(base).tolist() == [1, 2, 3, 4]
    assert base.id_at_location not in worker.objects
    other.add_(1)
    assert pt.get(other).tolist() == [4, 5]


def test_what_a_view_keeps_alive_is_freed_with_it(worker: pt.Worker) -> None:
    collect()  # what other tests left
    before = worker.stats()["object_bytes"]
    base = pt.send(torch.zeros(1000), worker)
    view = base[:1]
    pt.get(base)
    assert worker.stats()["object_bytes"] == before + 4000
    pt.get(view)
    del base, view
    collect()
    assert worker.stats()["object_bytes"] == before


# --- looking without taking away


LOOKS: dict[str, tuple[Callable[[Tensor], object], object]] = {
    "cpu": (lambda p: p.cpu().tolist(), [2.5]),
    "to": (lambda p: p.to("cpu").tolist(), [2.5]),
    "to with dtype": (lambda p: p.to("cpu", torch.float64).dtype, torch.float64),
    "to another tensor's place": (lambda p: p.to(torch.zeros(1)).tolist(), [2.5]),
    "item": (lambda p: p.item(), 2.5),
    "float": (float, 2.5),
    "int": (int, 2),
    "complex": (complex, 2.5 + 0j),
    "bool": (bool, True),
    "if": (lambda p: "yes" if p > 2 else "no", "yes"),
    "tolist": (lambda p: p.tolist(), [2.5]),
    "copy_": (lambda p: torch.zeros(1).copy_(p).tolist(), [2.5]),
    "item of a conjugate": (lambda p: torch.complex(p, p).conj().item(), 2.5 - 2.5j),
    "numpy with force": (lambda p: p.numpy(force=True).tolist(), [2.5]),
    "format": (lambda p: f"{p[0]:.3f}", "2.500"),
    "round": (lambda p: f"{p.item():.1f}", "2.5"),
    "equal": (lambda p: torch.equal(p, p.clone()), True),
    "allclose": (lambda p: torch.allclose(p, p + 1), False),
}


@pytest.mark.parametrize(("look", "expected"), LOOKS.values(), ids=list(LOOKS))
def test_a_look_waits_once_and_leaves_the_pointer(
    look: Callable[[Tensor], object], expected: object, worker: pt.Worker
) -> None:
    pointer = pt.send(torch.tensor([2.5]), worker)
    with waits(worker, 1):
        assert look(pointer) == expected
    assert pt.get(pointer).tolist() == [2.5]


def test_an_index_is_a_number_at_the_worker(worker: pt.Worker) -> None:
    assert ["a", "b", "c"][pt.send(torch.tensor(1), worker)] == "b"
    assert list(range(pt.send(torch.tensor(2), worker))) == [0, 1]


SILENT: dict[str, Callable[[Tensor], object]] = {
    "repr": repr,
    "str": str,
    "format": lambda p: f"{p}",
    "shape": lambda p: (p.shape, p.dtype, p.device, p.stride(), p.numel(), p.dim(), len(p), p.is_contiguous()),
    "operations": lambda p: (p * 2 + 1).t() @ p,
    "slices": lambda p: [p[0], p[:, 1], p[..., None], p[torch.tensor([0])]],
    "autograd": lambda p: (p.detach().requires_grad_() * 2).sum().backward(),
    "detach": lambda p: p.detach(),
    "factories": lambda p: (torch.zeros_like(p), p.new_ones(3), torch.randn(2, device=p.device)),
    "iteration": lambda p: list(p),
}


@pytest.mark.parametrize("look", SILENT.values(), ids=list(SILENT))
def test_never_waits(look: Callable[[Tensor], object], worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2, 2), worker)
    with waits(worker, 0):
        look(pointer)


def test_cpu_is_differentiable(worker: pt.Worker) -> None:
    fetches: list[Callable[[Tensor], Tensor]] = [
        lambda p: p.cpu(),
        lambda p: p.to("cpu"),
        lambda p: p.to("cpu", torch.float64),
    ]
    for fetch in fetches:
        leaf = pt.send(torch.tensor([1.0, 2.0], requires_grad=True), worker)
        fetch(leaf).square().sum().backward()
        fetch(leaf * 2).sum().backward()
        assert pt.is_pointer(leaf.grad)
        assert leaf.grad.dtype == torch.float32 and value(leaf.grad).tolist() == [4.0, 6.0]


def test_copy_crosses_both_ways(worker: pt.Worker, second_worker: pt.Worker) -> None:
    here, there = torch.zeros(2, 3), pt.send(torch.ones(2, 3), worker)
    elsewhere = pt.send(torch.full((3,), 5.0), second_worker)
    assert here.copy_(there).eq(1).all()
    assert value(there.copy_(here + 1)).eq(2).all()
    assert value(there.copy_(torch.tensor(3))).eq(3).all(), "a 0-dim tensor of another dtype"
    assert value(there.copy_(elsewhere)).eq(5).all(), "from another worker, broadcast"
    there[0] = torch.arange(3.0)
    there[1, 2] = 9
    assert value(there).tolist() == [[0, 1, 2], [5, 5, 9]]


def test_copy_is_differentiable_across(worker: pt.Worker) -> None:
    leaf = torch.ones(2, requires_grad=True)
    there = pt.send(torch.zeros(2), worker)
    there.copy_(leaf * 2)
    (there * 3).sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == [6, 6] and not pt.is_pointer(leaf.grad)

    back = torch.zeros(2)
    source = pt.send(torch.ones(2, requires_grad=True), worker)
    back.copy_(source * 2)
    (back * 3).sum().backward()
    assert pt.is_pointer(source.grad) and value(source.grad).tolist() == [6, 6]


def test_a_copy_lives_at_the_same_worker(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2), worker)
    copied = pointer.copy()
    pointer.zero_()
    assert copied.location is worker and copied.id_at_location != pointer.id_at_location
    assert pt.get(copied).tolist() == [1, 1]


# --- move


def test_a_leaf_moves_with_its_gradient(worker: pt.Worker, second_worker: pt.Worker) -> None:
    before = held(worker)
    tensor = torch.randn(3, requires_grad=True)
    tensor.square().sum().backward()
    pointer = pt.send(tensor, worker)
    moved = pointer.move(second_worker)
    assert held(worker) == before and moved.location is second_worker
    check_tensor(moved, tensor)
    assert pt.is_pointer(moved.grad) and moved.grad.location is second_worker and tensor.grad is not None
    check_tensor(moved.grad, tensor.grad)
    with pytest.raises(pt.SpentPointerError, match=r"move\(\)"):
        pointer + 1
    assert pt.get(moved).tolist() == tensor.tolist()


def test_a_move_to_where_it_is_is_none(worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2), worker)
    assert pt.move(pointer, worker) is pointer and value(pointer).tolist() == [1, 1]


def test_move_wants_a_pointer(worker: pt.Worker) -> None:
    with pytest.raises(pt.UnsupportedOpError, match=r"send\(\)"):
        pt.move(torch.ones(2), worker)


@pytest.mark.parametrize("make", VALUES.values(), ids=list(VALUES))
def test_move_keeps_the_value(make: Callable[[], Tensor], worker: pt.Worker, second_worker: pt.Worker) -> None:
    tensor = make()
    check_tensor(pt.move(pt.send(tensor, worker), second_worker), torch.empty_like(tensor).copy_(tensor))


@pytest.mark.parametrize("how", ["move", "to"])
def test_one_graph_spans_this_process_and_two_workers(how: str, worker: pt.Worker, second_worker: pt.Worker) -> None:
    carry: Callable[[Tensor, pt.Worker], Tensor] = pt.move if how == "move" else lambda p, w: p.to(w.device)

    def program(x: Tensor, at_first: Tensor, at_second: Tensor, places: tuple[pt.Worker, pt.Worker] | None) -> Tensor:
        hidden = (x * 2).sin()
        if places is not None:
            hidden = pt.send(hidden, places[0])
        hidden = (hidden * at_first).exp()
        if places is not None:
            hidden = carry(hidden, places[1])
        hidden = hidden.square() @ at_second
        if places is not None:
            hidden = pt.get(hidden)
        return hidden.tanh().sum()

    inputs = [torch.randn(3), torch.randn(3), torch.randn(3, 2)]
    x, first, second = (tensor.clone().requires_grad_() for tensor in inputs)
    expected = program(x, first, second, None)
    expected.backward()

    here = inputs[0].clone().requires_grad_()
    at_first = pt.send(inputs[1].clone().requires_grad_(), worker)
    at_second = pt.send(inputs[2].clone().requires_grad_(), second_worker)
    result = program(here, at_first, at_second, (worker, second_worker))
    result.backward()

    check_tensor(result, expected, 1e-6)
    for got, local, place in ((here, x, None), (at_first, first, worker), (at_second, second, second_worker)):
        assert got.grad is not None and local.grad is not None
        assert (got.grad.location if pt.is_pointer(got.grad) else None) is place
        check_tensor(got.grad, local.grad, 1e-5)


def test_to_another_worker_copies(worker: pt.Worker, second_worker: pt.Worker) -> None:
    pointer = pt.send(torch.ones(2), worker)
    there = pointer.to(second_worker.device)
    assert pt.is_pointer(there) and there.location is second_worker
    pointer.zero_()
    assert value(there).tolist() == [1, 1] and value(pointer).tolist() == [0, 0]
    assert pointer.to(worker.device) is pointer and pointer.to(torch.float32) is pointer
    copied = pointer.to(worker.device, copy=True)
    pointer.fill_(5)
    assert pt.is_pointer(copied) and copied.location is worker and value(copied).tolist() == [0, 0]


def test_a_deep_copy_shares_memory_where_the_original_does(worker: pt.Worker) -> None:
    flat = torch.zeros(4, device=worker.device)
    copied = copy.deepcopy({"flat": flat, "view": flat.view(2, 2), "part": flat[1:3], "alias": flat.detach()})
    copied["flat"].fill_(1)
    assert copied["view"].tolist() == [[1, 1], [1, 1]]
    assert copied["part"].tolist() == [1, 1] and copied["alias"].tolist() == [1, 1, 1, 1]
    assert flat.tolist() == [0, 0, 0, 0]
