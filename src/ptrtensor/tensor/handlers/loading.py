"""`torch.load(file, map_location=bob.device)`: by torch's own registry of what brings a storage to a device.

Torch restores storages and then makes tensors of them. A pointer has no storage; what stands for one here has its
bytes at a worker already, and the tensors become views of those: what shares memory in the file shares it there.
"""

import torch
from torch._ops import OpOverload

from ptrtensor._torch.names import DEVICE_TYPE
from ptrtensor._torch.storages import StorageElsewhere, bytes_of_storage, register_storage_location
from ptrtensor.client.reference import Reference
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.dispatch import run
from ptrtensor.tensor.operation import Args, Kwargs, operations
from ptrtensor.tensor.worker import Worker, devices
from ptrtensor.wire.metadata import TensorMeta

aten = torch.ops.aten


class WorkerStorage(StorageElsewhere):
    """The bytes of a storage of a file, at a worker."""

    worker: Worker
    reference: Reference
    meta: TensorMeta


def restore(storage: torch.UntypedStorage, location: str) -> WorkerStorage | None:
    """Called by `torch.load` for each storage; None where it is meant for another kind of device."""
    if location.partition(":")[0] != DEVICE_TYPE:
        return None
    there = WorkerStorage.on(torch.device(location))
    there.worker = devices.worker(torch.device(location))
    there.reference, there.meta = there.worker.put(bytes_of_storage(storage))
    return there


def set_storage(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """The tensor of a file: a part of its storage, in the dtype of the empty tensor that torch made first."""
    target, storage, offset, size, *strides = args  # of a number torch leaves the strides out
    if not (isinstance(storage, WorkerStorage) and isinstance(target, Pointer)):
        raise UnsupportedOpError("set_() of a storage on a pointer: a pointer has no storage, use set_() of a tensor")
    whole = wrap(storage.worker, storage.reference, storage.meta, 0)
    typed = run(operations[aten.view.dtype], (whole, target.dtype), {}, wrap)
    part = run(operations[aten.as_strided.default], (typed, size, *(strides or [[]]), offset), {}, wrap)
    return run(operations[aten.set_.source_Tensor], (target, part), {}, wrap)


operations[aten.set_.source_Storage_storage_offset].handler = set_storage
register_storage_location(restore)
