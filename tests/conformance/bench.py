"""The worker that a database is tried on, and twins of arguments: here, and there."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

import ptrtensor as pt

CPU: Final = torch.device("cpu")
SEED: Final = 42

_numbers: Final = itertools.count(1)


class Bench:
    """A worker of one kind. It is replaced by another where an entry of a database was the end of it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.worker = self._make()

    def close(self) -> None:
        with contextlib.suppress(pt.PtrTensorError):
            self.worker.close()

    def _make(self) -> pt.Worker:
        name = f"conformance-{self.kind}-{next(_numbers)}"
        return pt.VirtualWorker(id=name) if self.kind == "virtual" else pt.ProcessWorker(id=name)

    def recover(self) -> None:
        """Forget what failed, and go on."""
        try:
            self.worker.recover()
        except pt.PtrTensorError:
            self.close()
            self.worker = self._make()

    def seeded(self, act: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Both sides draw from generators that begin alike."""
        torch.manual_seed(SEED)
        self.worker.manual_seed(SEED)
        return act(*args, **kwargs)

    @contextlib.contextmanager
    def seeding(self, database: Any) -> Iterator[None]:
        """Entries that draw random numbers seed this process's generator only, and flush lazy tensors (F2)."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "wrapper_set_seed", self.seeded)
            patch.setattr("torch._lazy.mark_step", lambda *args, **kwargs: None)
            yield

    def sent(self, value: Any) -> Any:
        """The same with tensors at the worker, and "cpu" means the worker."""
        return tree_map(self._sent, value)

    def _sent(self, value: object) -> object:
        if isinstance(value, Tensor):
            return pt.send(copy_of(value), self.worker)
        return self.worker.device if isinstance(value, str | torch.device) and value in ("cpu", CPU) else value

    def at_worker(self, value: object) -> contextlib.AbstractContextManager[object]:
        """What is made without tensors and without a device is made in the worker's context."""
        return contextlib.nullcontext() if tensors(value) else self.worker


def copied(value: Any) -> Any:
    """The same with tensors of its own."""
    return tree_map(lambda leaf: copy_of(leaf) if isinstance(leaf, Tensor) else leaf, value)


def copy_of(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def attempt(act: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """The result, or the error."""
    try:
        return act(), None
    except Exception as error:
        return None, error
