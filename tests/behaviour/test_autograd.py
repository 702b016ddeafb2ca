"""Autograd is recorded here and every backward operation runs at the worker: the same numbers as locally."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import Program, check_program, check_tensor, value, waits
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import ptrtensor as pt


def backward(tensor: Tensor, gradient: Tensor | None = None, **options: Any) -> None:
    tensor.backward(gradient, **options)


def torchs_own_warnings(test: Callable[..., None]) -> Callable[..., None]:
    """Forward AD compiles decompositions with `torch.jit.script` when first used; `linearize` traces by fx."""
    for text in ("`torch.jit.script` is deprecated:DeprecationWarning", "Attempted to insert a get_attr Node"):
        test = pytest.mark.filterwarnings(f"ignore:{text}")(test)
    return test


def register(tensor: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Any:
    return tensor.register_hook(hook)


def weights() -> Tensor:
    return torch.randn(3, 2, requires_grad=True)


def data() -> Tensor:
    return torch.randn(4, 3)


# --- asking for gradients


def by_backward(w: Tensor, x: Tensor) -> Tensor:
    loss = (x @ w).tanh().sum()
    backward(loss)
    return loss.detach()


def accumulated(w: Tensor, x: Tensor) -> None:
    for _ in range(3):
        backward((x @ w).sum())
    assert w.grad is not None
    w.grad.mul_(2)
    backward((x @ w).square().sum())


def clear(tensor: Tensor) -> None:
    tensor.grad = None


def set_to_none(w: Tensor, x: Tensor) -> object:
    backward((x @ w).sum())
    clear(w)
    gone = w.grad
    backward((x @ w).sum())
    gradient = w.grad
    assert gradient is not None
    gradient.zero_()
    backward((x @ w).sum())
    return gone


def with_a_given_gradient(w: Tensor, x: Tensor) -> None:
    y = x @ w
    backward(y, torch.ones_like(y) * 0.5)


def retained(w: Tensor, x: Tensor) -> Tensor | None:
    hidden = x @ w
    hidden.retain_grad()
    loss = hidden.sin().sum()
    backward(loss, retain_graph=True)
    backward(loss)
    return hidden.grad


def for_some_inputs(w: Tensor, x: Tensor) -> None:
    other = x.clone().requires_grad_()
    backward((other @ w).sum(), inputs=[w])
    assert other.grad is None


def by_grad(w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    y = (x @ w).exp()
    return torch.autograd.grad(y, w, grad_outputs=torch.ones_like(y))


def by_grad_with_unused(w: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
    unused = torch.zeros(2, device=w.device, requires_grad=True)
    return torch.autograd.grad((x @ w).sum(), [w, unused], allow_unused=True)


def by_grad_with_zeros(w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    unused = torch.zeros(2, device=w.device, requires_grad=True)
    return torch.autograd.grad((x @ w).sum(), [w, unused], materialize_grads=True)


def by_grad_of_batches(w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    y = (x @ w).sum(0)
    return torch.autograd.grad(y, w, grad_outputs=torch.eye(2, device=w.device), is_grads_batched=True)


def twice(w: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    (first,) = torch.autograd.grad((x @ w).sin().sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), w, create_graph=True)
    return (first.detach(), *torch.autograd.grad(second.sum(), w))


def gradient_penalty(w: Tensor, x: Tensor) -> object:
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((inputs @ w).tanh().sum(), inputs, create_graph=True)
    penalty = (gradient.norm(dim=1) - 1).square().mean()
    backward(penalty)
    return penalty.detach()


def twice_through_a_convolution(w: Tensor, x: Tensor) -> None:
    kernel = w.reshape(1, 1, 3, 2)
    image = x.reshape(1, 1, 4, 3).clone().requires_grad_()
    y = nn.functional.conv2d(image, kernel).sin().sum()
    (gradient,) = torch.autograd.grad(y, image, create_graph=True)
    backward(gradient.square().sum())


GRADIENTS: dict[str, Program] = {
    "backward": by_backward,
    "accumulated": accumulated,
    "set to none": set_to_none,
    "with a given gradient": with_a_given_gradient,
    "retained": retained,
    "for some inputs": for_some_inputs,
    "grad": by_grad,
    "grad with unused": by_grad_with_unused,
    "grad with zeros": by_grad_with_zeros,
    "grad of batches": by_grad_of_batches,
    "twice": twice,
    "gradient penalty": gradient_penalty,
    "twice through a convolution": twice_through_a_convolution,
    "functional.jacobian": lambda w, x: torch.autograd.functional.jacobian(lambda v: (x @ v).sin(), w.detach()),
    "functional.hessian": lambda w, x: torch.autograd.functional.hessian(lambda v: (x @ v).sin().sum(), w.detach()),
    "functional.vjp": lambda w, x: torch.autograd.functional.vjp(lambda v: (x @ v).exp().sum(), w.detach()),
}


@pytest.mark.parametrize("program", GRADIENTS.values(), ids=list(GRADIENTS))
def test_gradients_are_the_local_ones(program: Program, worker: pt.Worker) -> None:
    check_program(worker, program, weights(), data(), tolerance=1e-6)


def test_backward_waits_for_nothing_and_returns_none(worker: pt.Worker) -> None:
    leaf, inputs = pt.send(weights(), worker), pt.send(data(), worker)
    with waits(worker, 0):
        returned: object = (inputs @ leaf).sum().__getattribute__("backward")()
        assert returned is None and pt.is_pointer(leaf.grad) and leaf.grad.location is worker


def test_backward_runs_in_the_calling_thread(worker: pt.Worker) -> None:
    threads: list[threading.Thread] = []
    leaf = pt.send(weights(), worker)
    register(leaf, lambda gradient: threads.append(threading.current_thread()))
    backward(leaf.sum())
    assert threads == [threading.current_thread()]


# --- recording or not


def no_grad(w: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x @ w
        w.mul_(2)
    with torch.enable_grad():
        backward((x @ w).sum())
    return y


def inference(w: Tensor, x: Tensor) -> list[object]:
    with torch.inference_mode():
        y = x @ w
        z = y.clone()
        z.add_(1)
        view = z[0]
        view.zero_()
    return [y.is_inference(), y.requires_grad, z.clone(), (z * 2).requires_grad, y.clone().add_(1)]


def inference_tensor_in_a_graph(w: Tensor, x: Tensor) -> str:
    with torch.inference_mode():
        y = x * 2
    with pytest.raises(RuntimeError, match="[Ii]nference tensors cannot be saved for backward") as caught:
        y @ w
    return str(type(caught.value))


def set_grad_enabled(w: Tensor, x: Tensor) -> list[bool]:
    with torch.set_grad_enabled(False):
        first = (x @ w).requires_grad
    return [first, (x @ w).requires_grad, (x @ w.detach()).requires_grad]


def switched(w: Tensor, x: Tensor) -> list[bool]:
    x.requires_grad_()
    w.requires_grad_(False)
    states = [(x * 1).requires_grad, (w * 1).requires_grad]
    w.requires_grad = True
    x.requires_grad = False
    return [*states, (x * 1).requires_grad, (w * 1).requires_grad]


def saved_on_the_cpu(w: Tensor, x: Tensor) -> None:
    with torch.autograd.graph.save_on_cpu():
        y = (x @ w).exp()
    backward(y.sum())


def in_multiple_parts(w: Tensor, x: Tensor) -> None:
    with torch.autograd.set_multithreading_enabled(False):
        backward((x @ w).sum())


RECORDING: dict[str, Program] = {
    "no_grad": no_grad,
    "inference_mode": inference,
    "an inference tensor in a graph": inference_tensor_in_a_graph,
    "set_grad_enabled": set_grad_enabled,
    "requires_grad switched": switched,
    "save_on_cpu": saved_on_the_cpu,
    "in one thread": in_multiple_parts,
}


@pytest.mark.parametrize("program", RECORDING.values(), ids=list(RECORDING))
def test_recording_is_the_local_one(program: Program, worker: pt.Worker) -> None:
    check_program(worker, program, weights(), data(), tolerance=1e-6)


# --- hooks


def tensor_hook(w: Tensor, x: Tensor) -> None:
    hidden = x @ w
    hidden.register_hook(lambda gradient: gradient * 2)
    handle = w.register_hook(lambda gradient: gradient + 1)
    backward(hidden.sum(), retain_graph=True)
    handle.remove()
    backward(hidden.sum())


def hook_that_only_looks(w: Tensor, x: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    w.register_hook(lambda gradient: seen.append(gradient.clone()))
    backward((x @ w).sin().sum())
    return seen


def after_accumulation(w: Tensor, x: Tensor) -> Tensor:
    steps: list[Tensor] = []

    def step(parameter: Tensor) -> None:
        assert parameter is w and parameter.grad is not None
        steps.append(parameter.grad.clone())
        with torch.no_grad():
            parameter.sub_(parameter.grad, alpha=0.1)
        parameter.grad = None

    w.register_post_accumulate_grad_hook(step)
    backward((x @ w).square().sum())
    return steps[0]


def saved_tensors(w: Tensor, x: Tensor) -> list[int]:
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> int:
        packed.append(tensor)
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda place: packed[place] * 2):
        y = (w * w).sum() + (x @ w).exp().sum()
    backward(y)
    return [len(packed)]


def node_hooks(w: Tensor, x: Tensor) -> list[str]:
    y = (x @ w).exp()
    names: list[str] = []
    assert y.grad_fn is not None
    y.grad_fn.register_prehook(lambda gradients: (gradients[0] * 3,))
    y.grad_fn.register_hook(lambda inputs, outputs: names.append(y.grad_fn.name() if y.grad_fn else ""))
    backward(y.sum())
    return names


def all_gradients_hook(w: Tensor, x: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    a, b = w * 2, w * 3
    torch.autograd.graph.register_multi_grad_hook(
        (a, b), lambda gradients: seen.extend(gradient for gradient in gradients if gradient is not None)
    )
    backward((a * b).sum())
    return seen


def three_times(module: nn.Module, gradients: Any) -> Any:
    return tuple(gradient * 3 for gradient in gradients)


def module_hooks(w: Tensor, x: Tensor) -> list[object]:
    layer = nn.Linear(3, 2, bias=False)
    layer.weight = nn.Parameter(w.detach().t().clone())
    seen: list[object] = []
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    layer.register_forward_hook(lambda module, args, output: output + 1)
    layer.register_full_backward_pre_hook(three_times)
    layer.register_full_backward_hook(lambda module, inputs, outputs: seen.append([*inputs, *outputs]))
    inputs = x.clone().requires_grad_()
    y = layer(inputs)
    backward(y.square().sum())
    return [y.detach(), seen, inputs.grad, layer.weight.grad]


HOOKS: dict[str, Program] = {
    "tensor": tensor_hook,
    "only looks": hook_that_only_looks,
    "after accumulation": after_accumulation,
    "saved tensors": saved_tensors,
    "nodes": node_hooks,
    "several gradients": all_gradients_hook,
    "module": module_hooks,
}


@pytest.mark.parametrize("program", HOOKS.values(), ids=list(HOOKS))
def test_hooks_see_and_change_what_they_do_locally(program: Program, worker: pt.Worker) -> None:
    check_program(worker, program, weights(), data(), tolerance=1e-6)


def test_an_error_in_a_hook_is_an_ordinary_exception(worker: pt.Worker) -> None:
    leaf = pt.send(weights(), worker)

    def refuse(gradient: Tensor) -> None:
        raise KeyError("from the hook")

    handle = register(leaf, refuse)
    with pytest.raises(KeyError, match="from the hook"):
        backward(leaf.sum())
    handle.remove()
    backward(leaf.sum())
    assert leaf.grad is not None and value(leaf.grad).eq(1).all()


# --- custom functions


class Scaled(torch.autograd.Function):
    """Has a context, several outputs, a mark, and a backward that can be recorded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.factor = factor
        signs = x.sign()
        ctx.mark_non_differentiable(signs)
        return x * factor, signs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, unused: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * ctx.factor + x * 0, None


class WithSetup(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x * x * gradient

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x * x * tangent


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 7


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def call(function: type[torch.autograd.Function], *args: object) -> Any:
    return function.apply(*args)


def scaled(w: Tensor, x: Tensor) -> Tensor:
    y, signs = call(Scaled, x @ w, 2.5)
    assert not signs.requires_grad
    (gradient,) = torch.autograd.grad((y * y).sum(), w, create_graph=True)
    backward(gradient.sum())
    return gradient.detach()


def with_setup(w: Tensor, x: Tensor) -> object:
    backward(call(WithSetup, w).sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(w.detach(), torch.ones_like(w))
        tangent = forward_ad.unpack_dual(call(WithSetup, dual)).tangent
    assert tangent is not None
    return tangent


def in_place(w: Tensor, x: Tensor) -> object:
    y = w * 1
    result = call(InPlace, y)
    assert result is y
    backward(y.square().sum())
    return y.detach()


CUSTOM: dict[str, Program] = {
    "scaled": scaled,
    "with setup_context": with_setup,
    "in place": in_place,
    "once differentiable": lambda w, x: backward(call(OnceDifferentiable, w).sum()),
    "straight through": lambda w, x: backward(call(StraightThrough, x @ w).square().sum()),
}


@torchs_own_warnings
@pytest.mark.parametrize("program", CUSTOM.values(), ids=list(CUSTOM))
def test_custom_functions(program: Program, worker: pt.Worker) -> None:
    check_program(worker, program, weights(), data(), tolerance=1e-6)


# --- checkpoint


def block(w: Tensor, x: Tensor) -> Tensor:
    hidden = nn.functional.dropout(x @ w, 0.5)
    return nn.functional.dropout(hidden.tanh(), 0.3) * hidden


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("preserve_rng_state", [True, False])
def test_checkpoint_recomputes_the_same_dropout(
    use_reentrant: bool, preserve_rng_state: bool, worker: pt.Worker
) -> None:
    inputs = torch.randn(8, 3)
    gradients = []
    for checkpointed in (False, True):
        w = pt.send(torch.ones(3, 2, requires_grad=True), worker)
        x = pt.send(inputs, worker).requires_grad_()
        torch.manual_seed(5)
        if checkpointed:
            y = checkpoint(block, w, x, use_reentrant=use_reentrant, preserve_rng_state=preserve_rng_state)
        else:
            y = block(w, x)
        if preserve_rng_state:
            torch.rand(3)  # between the two passes somebody else draws
        elif checkpointed:
            torch.manual_seed(5)  # the caller's own care
        backward(y.sum())
        gradients.append((w.grad, x.grad, y.detach()))
    for plain, checkpointed_too in zip(*gradients, strict=True):
        assert plain is not None and checkpointed_too is not None
        check_tensor(checkpointed_too, value(plain))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_without_randomness_is_the_local_one(use_reentrant: bool, worker: pt.Worker) -> None:
    def program(w: Tensor, x: Tensor) -> None:
        x.requires_grad_()
        y = checkpoint(lambda a, b: (b @ a).exp().sin(), w, x, use_reentrant=use_reentrant)
        backward(y.sum())

    check_program(worker, program, weights(), data(), tolerance=1e-6)


def test_checkpoint_sequential(worker: pt.Worker) -> None:
    def program(w: Tensor, x: Tensor) -> list[Tensor | None]:
        layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4))).to(w.device)
        y = checkpoint_sequential(layers, 2, x, use_reentrant=False)
        backward(y.square().sum())
        return [parameter.grad for parameter in layers.parameters()]

    check_program(worker, program, weights(), data(), tolerance=1e-6)


# --- transforms


def per_sample(w: Tensor, x: Tensor) -> object:
    gradient = torch.func.grad(lambda weight, row: (row @ weight).sin().sum())
    return torch.func.vmap(gradient, in_dims=(None, 0))(w.detach(), x)


def functional_call(w: Tensor, x: Tensor) -> Tensor:
    layer = nn.Linear(3, 2, bias=False)
    given = {"weight": w.detach().t()}
    loss = lambda parameters: torch.func.functional_call(layer, parameters, (x,)).square().sum()  # noqa: E731
    gradients = torch.func.grad(loss)(given)
    result: Tensor = gradients["weight"]
    return result


def ensemble(w: Tensor, x: Tensor) -> object:
    stacked = torch.stack([w.detach(), w.detach() * 2])
    return torch.func.vmap(lambda weight: x @ weight)(stacked)


def dual_numbers(w: Tensor, x: Tensor) -> list[Tensor | None]:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(w.detach(), torch.ones_like(w))
        y = (x @ dual).tanh()
        primal, tangent = forward_ad.unpack_dual(y)
        return [primal.clone(), None if tangent is None else tangent.clone()]


TRANSFORMS: dict[str, Program] = {
    "per-sample gradients": per_sample,
    "functional_call": functional_call,
    "ensemble": ensemble,
    "forward AD": dual_numbers,
    "grad": lambda w, x: torch.func.grad(lambda v: (x @ v).exp().sum())(w.detach()),
    "grad_and_value": lambda w, x: torch.func.grad_and_value(lambda v: (x @ v).exp().sum())(w.detach()),
    "vjp": lambda w, x: torch.func.vjp(lambda v: x @ v, w.detach())[1](x @ w.detach()),
    "jvp": lambda w, x: torch.func.jvp(lambda v: (x @ v).sin(), (w.detach(),), (torch.ones_like(w),)),
    "jacrev": lambda w, x: torch.func.jacrev(lambda v: (x @ v).sin())(w.detach()),
    "jacfwd": lambda w, x: torch.func.jacfwd(lambda v: (x @ v).sin())(w.detach()),
    "hessian": lambda w, x: torch.func.hessian(lambda v: (x @ v).sin().sum())(w.detach()),
    "vmap with in and out dims": lambda w, x: torch.func.vmap(torch.dot, in_dims=1, out_dims=0)(w, w).detach(),
    "vmap with randomness": lambda w, x: torch.func.vmap(
        lambda row: row + 0 * torch.rand_like(row), randomness="different"
    )(x),
    "functionalize": lambda w, x: torch.func.functionalize(lambda v: v.clone().add_(1).t_())(w.detach()),
}


@torchs_own_warnings
@pytest.mark.parametrize("program", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_transforms(program: Program, worker: pt.Worker) -> None:
    check_program(worker, program, weights(), data(), tolerance=1e-6)


def linearized(w: Tensor, x: Tensor) -> Tensor:
    result: Tensor = torch.func.linearize(lambda v: (x @ v).sin(), w.detach())[1](torch.ones_like(w))
    return result


def traced(w: Tensor, x: Tensor) -> Tensor:
    """Traced with one tensor and run with another."""
    result: Tensor = make_fx(lambda v: (x @ v).sin())(w.detach())(w.detach() * 2)
    return result


@torchs_own_warnings
@pytest.mark.parametrize("program", [linearized, traced])
def test_a_trace_is_right_or_refused(program: Callable[[Tensor, Tensor], Tensor], worker: pt.Worker) -> None:
    """What the tracer does not see would be a constant in the trace, with the values of the first call."""
    w, x = weights(), data()
    expected = program(w, x)
    with contextlib.suppress(pt.UnsupportedOpError):
        check_tensor(program(pt.send(w, worker), pt.send(x, worker)), expected, 1e-6)


CROSSINGS: dict[str, Callable[[Tensor, pt.Worker], Tensor]] = {
    "send": lambda dual, worker: pt.send(dual, worker),
    "to": lambda dual, worker: dual.to(worker.device),
    "send and get": lambda dual, worker: pt.get(pt.send(dual, worker) * 1),
    "send and cpu": lambda dual, worker: pt.send(dual, worker).cpu(),
}


@torchs_own_warnings
@pytest.mark.parametrize("cross", CROSSINGS.values(), ids=list(CROSSINGS))
def test_a_tangent_crosses_or_is_refused(cross: Callable[[Tensor, pt.Worker], Tensor], worker: pt.Worker) -> None:
    with forward_ad.dual_level(), contextlib.suppress(pt.UnsupportedOpError):
        dual = forward_ad.make_dual(torch.ones(2), torch.tensor([1.0, 2.0]))
        tangent = forward_ad.unpack_dual(cross(dual, worker) * 3).tangent
        assert tangent is not None and value(tangent).tolist() == [3, 6], "it is not lost"


# --- errors


class Elsewhere(torch.autograd.Function):
    """Gives a gradient that lives in another place than its tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.place = place
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.place(gradient.detach().cpu()), None


@pytest.fixture(params=["cpu", "another worker"])
def place(request: pytest.FixtureRequest, second_worker: pt.VirtualWorker) -> Callable[[Tensor], Tensor]:
    """Takes a local tensor to where it does not belong."""
    return torch.clone if request.param == "cpu" else second_worker.send


def test_a_gradient_from_elsewhere_cannot_be_assigned(place: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)
    with pytest.raises(pt.WorkerMismatchError, match=worker.id):
        leaf.grad = place(torch.ones(2))
    assert leaf.grad is None


def test_a_function_cannot_put_a_gradient_from_elsewhere(place: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)
    with pytest.raises(pt.WorkerMismatchError, match=worker.id):
        backward((call(Elsewhere, leaf, place) * 2).sum())
        assert leaf.grad is not None


def test_a_gradient_from_elsewhere_is_not_added(place: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)
    backward(leaf.sum())
    with pytest.raises(pt.WorkerMismatchError, match=worker.id):
        backward((call(Elsewhere, leaf, place) * 2).sum())
        assert leaf.grad is not None
    assert leaf.grad is not None and value(leaf.grad).tolist() == [1, 1], "what was there is as it was"


def test_a_gradient_from_elsewhere_in_the_middle(place: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)
    with pytest.raises(pt.WorkerMismatchError, match=worker.id):
        backward((call(Elsewhere, leaf.exp(), place) * 2).sum())


def test_a_pointer_is_no_gradient_of_a_local_tensor(worker: pt.Worker) -> None:
    leaf = torch.ones(2, requires_grad=True)
    gradient = pt.send(torch.ones(2), worker)
    with pytest.raises((RuntimeError, TypeError), match="device|type"):
        leaf.grad = gradient


def test_a_gradient_sent_backward_from_elsewhere(place: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)
    with pytest.raises(pt.WorkerMismatchError, match=worker.id):
        backward(leaf * 2, place(torch.ones(2)))
        assert leaf.grad is not None


def test_an_optimizer_takes_no_gradient_from_elsewhere(place: Callable[[Tensor], Tensor], worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)
    with pytest.raises(pt.WorkerMismatchError, match=worker.id):
        backward((call(Elsewhere, leaf, place) * 2).sum())
        torch.optim.SGD([leaf], lr=0.1).step()
    assert value(leaf).tolist() == [1, 1]


MISTAKES: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "not a scalar": (lambda w: backward(w * 2), "only for scalar outputs"),
    "twice": (lambda w: list(map(backward, [w.exp().sum()] * 2)), "second time"),
    "nothing to record": (lambda w: backward(w.detach().sum()), "does not require grad"),
    "unused": (lambda w: torch.autograd.grad(w.sum(), w.clone()), "not have been used"),
    "gradient of another shape": (lambda w: setattr(w, "grad", w.detach()[0]), "size|shape"),
    "gradient of another dtype": (lambda w: setattr(w, "grad", w.detach().double()), "type|dtype"),
    "no backward": (lambda w: backward((w.detach().int() + w).int().sum()), "does not require grad"),
}


@pytest.mark.parametrize(("act", "said"), MISTAKES.values(), ids=list(MISTAKES))
def test_mistakes_are_the_errors_of_torch(act: Callable[[Tensor], object], said: str, worker: pt.Worker) -> None:
    for leaf in (weights(), pt.send(weights(), worker)):
        with pytest.raises(RuntimeError, match=said):
            act(leaf)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.filterwarnings("ignore:Error detected in:UserWarning")
def test_anomaly_mode_finds_the_operation(worker: pt.Worker) -> None:
    leaf = pt.send(torch.zeros(2, requires_grad=True), worker)
    with torch.autograd.set_detect_anomaly(True):
        backward((leaf + 1).sqrt().sum())
        assert leaf.grad is not None and value(leaf.grad).tolist() == [0.5, 0.5]
        with pytest.raises(RuntimeError, match="SqrtBackward0.*nan"):
            backward((leaf.sqrt() * 0).sum())


@pytest.mark.parametrize("name", ["gradcheck", "gradgradcheck"])
def test_gradcheck(name: str, virtual_worker: pt.VirtualWorker) -> None:
    leaf = pt.send(torch.randn(2, 2, dtype=torch.float64, requires_grad=True), virtual_worker)
    check: Callable[..., bool] = getattr(torch.autograd, name)
    assert check(lambda x: (x @ x).sin(), (leaf,))


def test_a_graph_may_be_walked_in_another_thread(worker: pt.Worker) -> None:
    leaf = pt.send(torch.ones(2, requires_grad=True), worker)
    loss = (leaf * 3).sum()
    thread = threading.Thread(target=backward, args=(loss,))
    thread.start()
    thread.join()
    assert leaf.grad is not None and value(leaf.grad).tolist() == [3, 3]
