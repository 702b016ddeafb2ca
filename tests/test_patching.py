"""Nothing in torch is patched: the same attributes, and with no hook open the same bits and types.

Each test runs functions of this file in a Python process of its own, where nothing was imported before;
hence their imports inside functions.
"""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

PATCHABLE: dict[str, type | ModuleType] = {
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch._C.TensorBase": torch._C.TensorBase,
    "torch.autograd": torch.autograd,
    "torch.nn": torch.nn,
    "torch.nn.Module": torch.nn.Module,
    "torch.nn.functional": torch.nn.functional,
}


def run_python(code: str) -> str:
    """What the code, which may use the functions of this file, prints in a Python process of its own."""
    command = [sys.executable, "-c", f"from {Path(__file__).stem} import *\n{code}"]
    child = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout


# --- attributes


def attributes() -> dict[str, object]:
    return {f"{place}.{name}": value for place, owner in PATCHABLE.items() for name, value in vars(owner).items()}


def changes_since(before: dict[str, object]) -> list[str]:
    """The attributes that are new, gone or another object, but for modules that torch imports late."""
    after = attributes()
    changed = {name for name in before if name not in after or after[name] is not before[name]}
    new = {name for name in after if name not in before and not is_module_of_torch(after[name])}
    return sorted(changed | new)


def is_module_of_torch(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__.startswith("torch.")


def changes_by_ptrtensor() -> list[str]:
    """What importing ptrtensor, a hook that is open, its use and its end change in torch."""
    before = attributes()
    import ptrtensor

    imported = changes_since(before)

    # Torch itself puts another torch.manual_seed in place when its compiler is first imported, which the
    # first FakeTensorMode does. Let it happen before we look again.
    import torch._dynamo

    before = attributes()
    hook = ptrtensor.TorchHook(torch)
    bob = ptrtensor.VirtualWorker(hook, id="bob")
    opened = changes_since(before)
    ptrtensor.get(ptrtensor.send(torch.ones(2, requires_grad=True), bob))
    used = changes_since(before)
    bob.close()
    hook.close()
    closed = changes_since(before)

    moments = {"imported": imported, "hook open": opened, "hook used": used, "hook closed": closed}
    return [f"{moment}: {name}" for moment, names in moments.items() for name in names]


def test_torch_keeps_every_attribute() -> None:
    changes = run_python("print(*changes_by_ptrtensor(), sep='\\n')").splitlines()
    # The one new name is added by torch._register_device_module: it is how torch finds a device's module.
    assert [change for change in changes if change and not change.endswith(": torch.lazy")] == []


# --- bits and types


def described(value: object) -> str:
    """The exact type of a value and, of a tensor, its properties and every bit."""
    if not isinstance(value, torch.Tensor):
        return f"{type(value)} {value}"
    bits = value.detach().contiguous().flatten().view(torch.uint8).tolist()
    return f"{type(value)} {value!r} {value.dtype} {value.shape} {value.stride()} {value.requires_grad} {bits}"


def plain_program() -> str:
    """Use plain tensors in many ways. It does not seed the generator: a number drawn before would show."""
    settings = [
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    ]

    data = torch.randn(8, 3)
    made = [
        torch.tensor([1, 2, 3]),
        torch.as_tensor([0.5, -0.0]),
        torch.zeros(2, 3),
        torch.arange(5),
        torch.eye(2, dtype=torch.float64),
        torch.full((2,), 1 + 2j),
        torch.empty(0),
        torch.zeros_like(data),
        data.new_ones(2),
        data[:, 1],
        data.T @ data,
        data > 0,
        data.add_(1),
        torch.fft.rfft(data),
        torch.nn.functional.dropout(data, 0.5),
    ]

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()
    gradients = [parameter.grad for parameter in model.parameters()]

    values = [*settings, *made, *model.parameters(), *gradients, *model.buffers()]
    return "\n".join(described(value) for value in values)


@pytest.fixture(scope="module")
def without_ptrtensor() -> str:
    return run_python("torch.manual_seed(7); print(plain_program())")


@pytest.mark.parametrize(
    "use",
    [
        pytest.param("import ptrtensor", id="imported"),
        pytest.param("import ptrtensor; ptrtensor.TorchHook(torch).close()", id="hook closed"),
        pytest.param(
            "import ptrtensor as sy; bob = sy.VirtualWorker(id='bob'); p = sy.send(torch.ones(2), bob)",
            id="pointer alive",
        ),
    ],
)
def test_plain_tensors_are_what_they_were(use: str, without_ptrtensor: str) -> None:
    with_ptrtensor = run_python(f"torch.manual_seed(7); {use}; print(plain_program())")
    assert with_ptrtensor == without_ptrtensor
