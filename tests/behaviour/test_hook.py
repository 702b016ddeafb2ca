"""`TorchHook`: factories give tensors that can be sent, torch is not patched, and its traps do not snap (F6)."""

import contextlib
import copy
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from comparing import check_equal, check_tensor
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

import ptrtensor as pt


def modes() -> int:
    """How many function modes are on this thread's stack."""
    return int(torch._C._len_torch_function_stack())


@pytest.fixture(autouse=True)
def stack_as_before() -> Iterator[None]:
    """What a failing test leaves on the stack must not fail the tests after it."""
    before = modes()
    yield
    for _ in range(modes() - before):
        torch._C._pop_torch_function_stack()


@pytest.fixture
def hook() -> Iterator[pt.TorchHook]:
    before = modes()
    opened = pt.TorchHook(torch)
    yield opened
    opened.close()
    assert modes() == before, "nothing is left on the stack"


def send(tensor: Tensor, worker: pt.Worker) -> pt.PointerTensor:
    """The tutorial's spelling, of which a type checker knows nothing."""
    pointer: pt.PointerTensor = tensor.send(worker)  # type: ignore[attr-defined]
    return pointer


FACTORIES: dict[str, Callable[[], Tensor]] = {
    "tensor": lambda: torch.tensor([1.0, 2.0]),
    "as_tensor": lambda: torch.as_tensor([1.0]),
    "zeros": lambda: torch.zeros(2),
    "ones": lambda: torch.ones(2),
    "full": lambda: torch.full((2,), 3.0),
    "empty": lambda: torch.empty(2).fill_(1),
    "arange": lambda: torch.arange(3),
    "linspace": lambda: torch.linspace(0, 1, 3),
    "eye": lambda: torch.eye(2),
    "rand": lambda: torch.rand(2),
    "randn": lambda: torch.randn(2),
    "randint": lambda: torch.randint(5, (2,)),
    "randperm": lambda: torch.randperm(3),
    "zeros_like": lambda: torch.zeros_like(torch.ones(2)),
    "rand_like": lambda: torch.rand_like(torch.ones(2)),
}

RESULTS: dict[str, Callable[[], Tensor]] = {
    "add": lambda: torch.ones(2) + 1,
    "function": lambda: torch.sin(torch.ones(2)),
    "two of them": lambda: torch.ones(2) @ torch.ones(2),
    "with a plain one": lambda: torch.ones(2) * plain([2.0, 3.0]),
    "view": lambda: torch.ones(2, 2)[0],
    "transposed": lambda: torch.randn(2, 3).t(),
    "in place": lambda: torch.zeros(2).add_(1),
    "copy": lambda: torch.ones(2).clone(),
    "detached": lambda: torch.ones(2, requires_grad=True).detach(),
    "data": lambda: torch.ones(2).data,
    "other dtype": lambda: torch.ones(2).double(),
    "cat": lambda: torch.cat([torch.ones(2), torch.zeros(1)]),
    "new_zeros": lambda: torch.ones(2).new_zeros(3),
    "deepcopy": lambda: copy.deepcopy(torch.ones(2)),
    "buffer of a module": lambda: next(nn.BatchNorm1d(2).buffers()),
    "deepcopy of a module": lambda: next(copy.deepcopy(nn.BatchNorm1d(2)).buffers()),
    "module's output": lambda: nn.Linear(2, 3)(torch.ones(1, 2)).detach(),
    "item of unbind": lambda: torch.ones(2, 2).unbind()[1],
}


def plain(values: list[float]) -> Tensor:
    with torch._C.DisableTorchFunction():
        return torch.tensor(values)


@pytest.mark.parametrize("make", [*FACTORIES.values(), *RESULTS.values()], ids=[*FACTORIES, *RESULTS])
def test_what_factories_make_and_what_comes_of_it_can_be_sent(
    make: Callable[[], Tensor], hook: pt.TorchHook, worker: pt.Worker
) -> None:
    tensor = make()
    assert isinstance(tensor, Tensor) and not pt.is_pointer(tensor)
    expected = tensor.tolist()
    pointer = send(tensor, worker)
    assert type(pointer) is pt.PointerTensor and pointer.location is worker
    assert pointer.get().tolist() == expected
    assert tensor.tolist() == expected
    check_equal(pt.send(tensor, worker), pt.get(pt.send(tensor, worker)), worker)


def test_a_leaf_stays_a_leaf(hook: pt.TorchHook, worker: pt.Worker) -> None:
    makers: list[Callable[[], Tensor]] = [
        lambda: torch.tensor([1.0, 2.0], requires_grad=True),
        lambda: torch.ones(2, requires_grad=True),
        lambda: torch.ones(2).requires_grad_(),
        lambda: torch.zeros_like(torch.ones(2), requires_grad=True),
        lambda: torch.ones(2).new_zeros(2, requires_grad=True),
        lambda: torch.ones(2).clone().requires_grad_(),
        lambda: copy.deepcopy(torch.ones(2, requires_grad=True)),
    ]
    for make in makers:
        tensor = make()
        assert tensor.is_leaf and tensor.requires_grad
        pointer = send(tensor, worker)
        assert pointer.is_leaf and pointer.requires_grad
        (pointer * 3).sum().backward()
        back = pointer.get()
        assert back.is_leaf and back.grad is not None and back.grad.tolist() == [3, 3]
        (tensor * 2).sum().backward()
        assert tensor.grad is not None and tensor.grad.tolist() == [2, 2]


def test_its_gradient_goes_along(hook: pt.TorchHook, worker: pt.Worker) -> None:
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    tensor.square().sum().backward()
    pointer = send(tensor, worker)
    assert pt.is_pointer(pointer.grad) and pointer.grad.tolist() == [2, 4]
    assert tensor.grad is not None and tensor.grad.tolist() == [2, 4]


def test_a_result_with_a_history_is_sent_differentiably(hook: pt.TorchHook, worker: pt.Worker) -> None:
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    (send(leaf * 3, worker) * 2).sum().backward()
    assert leaf.grad is not None and leaf.grad.tolist() == [6, 6]


def test_what_was_made_before_has_no_send(worker: pt.Worker) -> None:
    before = torch.ones(2)
    hook = pt.TorchHook(torch)
    try:
        assert type(before) is Tensor and not hasattr(before, "send")
        assert hasattr(torch.ones(2), "send")
    finally:
        hook.close()


# --- the end


@pytest.mark.parametrize("make", FACTORIES.values(), ids=list(FACTORIES))
def test_closed_it_is_gone(make: Callable[[], Tensor]) -> None:
    before = modes()
    hook = pt.TorchHook(torch)
    hook.close()
    assert type(make()) is Tensor and modes() == before
    hook.close()
    assert type(make()) is Tensor and modes() == before


def test_what_was_made_can_be_sent_after_the_end(worker: pt.Worker) -> None:
    with pt.TorchHook(torch):
        tensor = torch.ones(2)
    assert type(torch.ones(2)) is Tensor
    assert send(tensor, worker).get().tolist() == [1, 1]


def test_two_hooks_close_in_any_order() -> None:
    before = modes()
    for order in (0, 1):
        hooks = [pt.TorchHook(torch), pt.TorchHook(torch)]
        hooks[order].close()
        assert hasattr(torch.ones(2), "send"), "the other one is open"
        hooks[1 - order].close()
        assert type(torch.ones(2)) is Tensor and modes() == before


def test_torch_need_not_be_given() -> None:
    with pt.TorchHook() as hook:
        assert hasattr(torch.ones(2), "send") and hook.local_worker is pt.local_worker


# --- other modes


class Counting(TorchFunctionMode):
    """Somebody else's mode."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def both() -> Iterator[None]:
    with torch.device("meta"), Counting():
        yield


CONTEXTS: dict[str, Callable[[], Any]] = {
    "device": lambda: torch.device("meta"),
    "somebody's mode": Counting,
    "both": both,
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=list(CONTEXTS))
def test_made_inside_a_with_it_outlives_the_with(context: Callable[[], Any]) -> None:
    before = modes()
    with context():
        inside = torch.ones(1).device
        hook = pt.TorchHook(torch)
        assert torch.ones(1).device == inside, "the context holds on"
    try:
        made = torch.ones(1)
        assert made.device == torch.device("cpu") and hasattr(made, "send")
    finally:
        hook.close()
    assert modes() == before and type(torch.ones(1)) is Tensor


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=list(CONTEXTS))
def test_closed_inside_a_with_the_with_holds_on(context: Callable[[], Any]) -> None:
    before = modes()
    hook = pt.TorchHook(torch)
    with context():
        inside = torch.ones(1).device
        hook.close()
        made = torch.ones(1)
        assert made.device == inside and type(made) is Tensor
    assert modes() == before and torch.ones(1).device == torch.device("cpu")


def test_opened_and_closed_inside_a_with() -> None:
    before = modes()
    with torch.device("meta"):
        with pt.TorchHook(torch):
            assert torch.ones(1).device.type == "meta"
        assert torch.ones(1).device.type == "meta"
    assert modes() == before and torch.ones(1).device == torch.device("cpu")


def test_somebody_elses_mode_still_sees_every_call(hook: pt.TorchHook) -> None:
    with Counting() as mode:
        torch.sin(torch.ones(2))
    assert mode.calls >= 2


def test_a_default_device_set_under_the_hook() -> None:
    before = modes()
    hook = pt.TorchHook(torch)
    torch.set_default_device("meta")
    try:
        assert torch.ones(1).device.type == "meta"
        hook.close()
        assert torch.ones(1).device.type == "meta"
    finally:
        torch.set_default_device(None)
    assert modes() == before and torch.ones(1).device.type == "cpu"


def test_factories_at_a_worker_under_the_hook(hook: pt.TorchHook, worker: pt.Worker) -> None:
    assert type(torch.zeros(2, device=worker.device)) is pt.PointerTensor
    with worker:
        assert type(torch.ones(2)) is pt.PointerTensor
    assert type(torch.ones_like(send(torch.ones(2), worker))) is pt.PointerTensor
    check_equal(torch.tensor([1.0, 2.0], device=worker.device), plain([1.0, 2.0]), worker)


def test_it_is_of_one_thread(hook: pt.TorchHook) -> None:
    made: list[Tensor] = []
    thread = threading.Thread(target=lambda: made.append(torch.ones(2)))
    thread.start()
    thread.join()
    assert type(made[0]) is Tensor
    assert hasattr(torch.ones(2), "send")


def test_closed_in_another_thread_it_stays_open_in_its_own() -> None:
    hook = pt.TorchHook(torch)
    thread = threading.Thread(target=hook.close)
    thread.start()
    thread.join()
    assert hasattr(torch.ones(2), "send")
    hook.close()
    assert type(torch.ones(2)) is Tensor


# --- what must not notice it


def test_files_know_nothing_of_it() -> None:
    file = io.BytesIO()
    with pt.TorchHook(torch):
        tensor = torch.tensor([1.0, 2.0], requires_grad=True)
        view = torch.arange(6.0).view(2, 3)[:, 1]
        state = nn.BatchNorm1d(2).state_dict()
        torch.save({"tensor": tensor, "view": view, "state": state}, file)
        pickled = pickle.dumps([tensor, view])
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    for found, expected in (
        (loaded["tensor"], tensor),
        (loaded["view"], view),
        *zip(pickle.loads(pickled), [tensor, view], strict=True),
    ):
        assert type(found) is Tensor and found.is_leaf
        assert found.tolist() == expected.tolist() and found.requires_grad == expected.requires_grad
    assert {name: type(found) for name, found in loaded["state"].items()} == dict.fromkeys(state, Tensor)


def test_files_are_loaded_under_it(hook: pt.TorchHook) -> None:
    file = io.BytesIO()
    torch.save(torch.tensor([1.0, 2.0], requires_grad=True), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded.is_leaf and loaded.requires_grad and loaded.tolist() == [1, 2]


def test_modules_and_optimizers_work_under_it(hook: pt.TorchHook, worker: pt.Worker) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    assert len(list(model.parameters())) == 6
    assert all(isinstance(parameter, nn.Parameter) and parameter.is_leaf for parameter in model.parameters())
    x = torch.randn(5, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    pt.send(model, worker)
    model(send(x, worker)).square().mean().backward()
    pt.get(model)
    assert not any(pt.is_pointer(parameter) for parameter in model.parameters())
    assert [batch[0].shape for batch in DataLoader(TensorDataset(x), batch_size=2)] == [(2, 3), (2, 3), (1, 3)]


def test_the_numbers_are_those_without_it() -> None:
    def program() -> list[object]:
        torch.manual_seed(3)
        x = torch.randn(4, 3, requires_grad=True)
        (x @ torch.rand(3, 2)).tanh().sum().backward()
        assert x.grad is not None
        return [x.tolist(), x.grad.tolist(), torch.randperm(5).tolist(), str(torch.ones(2)), repr(x)]

    without = program()
    with pt.TorchHook(torch):
        assert program() == without


def test_it_prints_like_any_tensor(hook: pt.TorchHook) -> None:
    assert repr(torch.tensor([1, 2])) == "tensor([1, 2])"
    assert str(torch.ones(2, requires_grad=True)) == "tensor([1., 1.], requires_grad=True)"
    assert f"{torch.tensor(1.5)}" == "1.5" and f"{torch.tensor(1.5):.2f}" == "1.50"


def test_numpy_and_back(hook: pt.TorchHook) -> None:
    array = torch.ones(2).numpy()
    assert array.tolist() == [1, 1] and numpy.asarray(torch.ones(2)).tolist() == [1, 1]
    shared = torch.from_numpy(array)
    array[0] = 5
    assert shared.tolist() == [5, 1], "the memory is shared as ever"


def test_a_parameter_made_of_it(hook: pt.TorchHook, worker: pt.Worker) -> None:
    parameter = nn.Parameter(torch.ones(2))
    assert isinstance(parameter, nn.Parameter) and parameter.is_leaf and parameter.requires_grad
    check_tensor(pt.get(pt.send(parameter, worker)), plain([1.0, 1.0]).requires_grad_())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
def test_tracing_sees_plain_tensors(hook: pt.TorchHook) -> None:
    traced = torch.jit.trace(lambda x: x + torch.ones(2), (plain([0.0, 0.0]),))
    assert traced(plain([1.0, 2.0])).tolist() == [2, 3]


@pytest.mark.parametrize("open_while_compiling", [True, False])
def test_compiled_code_gives_what_it_gives_uncompiled(open_while_compiling: bool) -> None:
    def program(x: Tensor) -> Tensor:
        return (x * torch.arange(2.0) + torch.ones(2)).sin()

    x = plain([1.0, 2.0])
    expected = program(x)
    compiled = torch.compile(program, backend="eager", fullgraph=True)
    try:
        if not open_while_compiling:
            compiled(x)
        with pt.TorchHook(torch):
            for _ in range(2):
                result = compiled(x)
                assert type(result) is type(program(x))
                assert result.tolist() == expected.tolist()
            assert hasattr(torch.ones(2), "send")
        assert type(compiled(x)) is Tensor
    finally:
        torch.compiler.reset()


def test_a_worker_takes_the_hook_first(hook: pt.TorchHook) -> None:
    bob = pt.VirtualWorker(hook, id="bob-of-the-hook")
    try:
        pointer = send(torch.tensor([1, 2]), bob)
        assert list(bob._objects) == [pointer.id_at_location]
        pointer.get()
        assert bob._objects == {}
    finally:
        bob.close()
