"""Storages that `torch.load` restores."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor


class StorageElsewhere(torch.UntypedStorage):
    """What `torch.load` takes for a storage on another device. It has one byte, since torch looks for an address."""

    _elsewhere: torch.device

    @classmethod
    def on(cls, device: torch.device) -> Self:
        storage = cls(1)
        storage._elsewhere = device
        return storage

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._elsewhere


def bytes_of_storage(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def register_storage_location(restore: Callable[[torch.UntypedStorage, str], torch.UntypedStorage | None]) -> None:
    """By torch's own registry, behind what it has itself; nothing is tagged when tensors are saved."""
    registered: Any = restore
    torch.serialization.register_package(50, lambda storage: None, registered)
