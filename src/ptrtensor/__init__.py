"""Tensors that live at a worker and are used like any other tensor.

    import torch, ptrtensor as pt
    bob = pt.ProcessWorker(id="bob")
    x = pt.send(torch.tensor([1.0, 2.0]), bob)      # a pointer: shape and dtype here, values at bob
    print(pt.get(x + x))                            # bob computed; tensor([2., 4.])

General layout, in the order in which a call walks through it: `api` (what users call), `tensor` (pointer, dispatch,
inference), `client` (commands in batches), `transport` (bytes to the peer), `wire` (what the bytes mean), `worker`
(store, executor). `errors` has every error, `_torch` every private call into torch. docs/explanation/one-call.md
follows one call through the files.
"""

from ptrtensor import errors as errors
from ptrtensor.api import ProcessWorker as ProcessWorker
from ptrtensor.api import RemoteWorker as RemoteWorker
from ptrtensor.api import VirtualWorker as VirtualWorker
from ptrtensor.api import Worker as Worker
from ptrtensor.data_server import DataServer as DataServer
from ptrtensor.errors import AuditError as AuditError
from ptrtensor.errors import DatasetError as DatasetError
from ptrtensor.errors import IdentityError as IdentityError
from ptrtensor.errors import MessageTooLargeError as MessageTooLargeError
from ptrtensor.errors import ObjectNotFoundError as ObjectNotFoundError
from ptrtensor.errors import PermissionDeniedError as PermissionDeniedError
from ptrtensor.errors import PolicyError as PolicyError
from ptrtensor.errors import ProtocolError as ProtocolError
from ptrtensor.errors import PtrTensorError as PtrTensorError
from ptrtensor.errors import QuotaExceededError as QuotaExceededError
from ptrtensor.errors import RemoteOpError as RemoteOpError
from ptrtensor.errors import SpentPointerError as SpentPointerError
from ptrtensor.errors import UnsupportedOpError as UnsupportedOpError
from ptrtensor.errors import VersionMismatchError as VersionMismatchError
from ptrtensor.errors import WorkerLostError as WorkerLostError
from ptrtensor.errors import WorkerMismatchError as WorkerMismatchError
from ptrtensor.tensor.hook import TorchHook as TorchHook
from ptrtensor.tensor.local import local_worker as local_worker
from ptrtensor.tensor.pointer import PointerTensor as PointerTensor
from ptrtensor.tensor.profile import profile as profile
from ptrtensor.tensor.release import ReleaseRequest as ReleaseRequest
from ptrtensor.verbs import get as get
from ptrtensor.verbs import is_pointer as is_pointer
from ptrtensor.verbs import move as move
from ptrtensor.verbs import send as send
from ptrtensor.verbs import synchronize as synchronize
from ptrtensor.version import __version__ as __version__

__all__ = [
    "AuditError",
    "DataServer",
    "DatasetError",
    "IdentityError",
    "MessageTooLargeError",
    "ObjectNotFoundError",
    "PermissionDeniedError",
    "PointerTensor",
    "ProcessWorker",
    "PolicyError",
    "ProtocolError",
    "PtrTensorError",
    "QuotaExceededError",
    "ReleaseRequest",
    "RemoteOpError",
    "RemoteWorker",
    "SpentPointerError",
    "TorchHook",
    "UnsupportedOpError",
    "VersionMismatchError",
    "VirtualWorker",
    "Worker",
    "WorkerLostError",
    "WorkerMismatchError",
    "errors",
    "get",
    "is_pointer",
    "local_worker",
    "move",
    "profile",
    "send",
    "synchronize",
]
