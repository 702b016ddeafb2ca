"""A worker as the caller sees it: a device, an inference cache, and a client that speaks with the worker itself."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType, TracebackType
from typing import Final, Self, SupportsIndex

import torch
from torch import Tensor

from ptrtensor._torch.flags import Flags, read_flags
from ptrtensor._torch.memory import bytes_of, dense, has_memory, meta_of, tensor_of
from ptrtensor._torch.state import isolated
from ptrtensor.client.callsite import PTRTENSOR_FOLDER, CallSites, library_folder
from ptrtensor.client.client import Client
from ptrtensor.client.reference import Reference
from ptrtensor.errors import ProtocolError, PtrTensorError, UnsupportedOpError
from ptrtensor.tensor.arguments import check_state, checked_seed, shown
from ptrtensor.tensor.cache import Cache
from ptrtensor.tensor.casting import Casting
from ptrtensor.tensor.device import Devices, install
from ptrtensor.tensor.local import LocalWorker, local_worker
from ptrtensor.tensor.release import ReleaseRequest, releases
from ptrtensor.wire import messages
from ptrtensor.wire.limits import MAX_ID_CHARACTERS
from ptrtensor.wire.metadata import TensorMeta

call_sites: Final = CallSites((library_folder(torch.__file__), PTRTENSOR_FOLDER))


class Worker(ABC):
    """Somebody who holds tensors and computes on them: `VirtualWorker`, `ProcessWorker` or `RemoteWorker`.

    As a context manager it is its device's: ``with bob:`` makes factories build at bob.
    """

    def __init__(self, id: str, client: Client, compute_device: str) -> None:
        self.id = id
        self.client = client
        self.compute_device = torch.device(compute_device)
        self.cache = Cache()
        self.casting = Casting(self.compute_device.type)
        flags = read_flags()
        self._flags: Flags | None = flags
        """Those that the worker has; None while it is being told of others."""
        self._flags_seen: dict[Flags, int] = {flags: 0}
        self._flags_number = 0
        self._sequential = False
        self.spending = threading.Lock()
        self.naming = threading.Lock()
        self.is_profiled = False
        self.has_reshaped_views = False
        self.client.send(messages.Configure(messages.Settings(*flags)))
        self.device = devices.register(self)
        """`torch.device("lazy", k)`: what works with any other device of torch works with it."""

    # --- what users call

    @property
    def objects(self) -> Mapping[int, Tensor | TensorMeta]:
        """Name to object, read-only: the tensors themselves where the worker is in this process, else metadata."""
        found, _ = self.client.request(messages.Inventory, messages.Found)
        for entry in found.entries:
            entry.extent.check()
        return MappingProxyType({entry.name: entry.extent.meta for entry in found.entries})

    @abstractmethod
    def send(self, tensor: Tensor) -> Tensor:
        """Copy a local tensor to this worker and return a pointer to it; `ptrtensor.send` is typed more precisely."""

    @abstractmethod
    def search(self, *tags: str) -> Sequence[Tensor]:
        """Pointers to the worker's objects that have all of these tags."""

    @abstractmethod
    def autocast(
        self, dtype: torch.dtype | None = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> AbstractContextManager[object]:
        """Mixed precision for pointers of this worker, on this thread: `torch.autocast` of its kind of device."""

    def requests(self) -> list[ReleaseRequest]:
        """What this identity asked the owner of the data to release, in this session and others; the latest first."""
        return [ReleaseRequest(self.client, release) for release in releases(self.client)]

    def synchronize(self) -> None:
        """Wait until the worker has run everything.

        :raises RemoteOpError: an operation failed that nobody has seen yet.
        """
        self.client.synchronize()

    def recover(self) -> None:
        """Go on after a failure: values that a skipped operation was to change are as before it again.

        What a failing operation may have half written stays unusable. Failures reported so far count as seen.
        """
        self.client.request(messages.Recover, messages.Done)
        self.client.failures.forget()

    def manual_seed(self, seed: SupportsIndex | None) -> None:
        """Draw random numbers in order from one generator at the worker, as a local program seeded with `seed` does.

        None ends that: each operation brings a seed from this process's generator again.

        :raises PtrTensorError: the seed is no integer, or one that torch does not take.
        """
        if seed is None:
            self._sequential = False  # before: interrupted in between, its operations would bring equal seeds
        self.client.send(messages.ManualSeed(None if seed is None else checked_seed(seed)))
        self._sequential = seed is not None

    def stats(self) -> dict[str, int]:
        """Counters: operations, commands, those in flight, waits, bytes each way, cache hits and misses, live objects
        and bytes at the worker.
        """
        in_flight = self.client.in_flight
        counters, _ = self.client.request(messages.Statistics, messages.Counters)
        return {
            "operations": counters.operations,
            "commands": counters.commands,
            "in_flight": in_flight,
            "waits": self.client.waits.count,
            "bytes_sent": self.client.bytes_sent,
            "bytes_received": self.client.bytes_received,
            "cache_hits": self.cache.hits,
            "cache_misses": self.cache.misses,
            "objects": counters.objects,
            "object_bytes": counters.object_bytes,
            "poisoned": counters.poisoned,
        }

    def close(self, *, patience_seconds: float | None = None) -> None:
        """End the session; its objects are freed. May be called twice.

        Waits until everything posted has run; with a patience, no longer than so many seconds without a word from
        the worker.

        :raises RemoteOpError: an operation failed and nobody has seen it.
        """
        error = self.client.close(patience_seconds)
        devices.release(self)
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        self.device.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.device.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        state = " closed" if self.client.lost is not None else ""
        return f"<{type(self).__name__} id:{self.id}{state}>"

    def abandon(self) -> None:
        """In a forked child: this worker is the parent's."""
        self.client.abandon()

    # --- what dispatch calls

    @property
    def alive(self) -> Client:
        return self.client

    def mirror_flags(self) -> int:
        """Tell the worker of flags that changed since the last command; returns a small number for the set of them."""
        flags = read_flags()
        if flags != self._flags:
            self._flags = None  # interrupted from here on, it is told again
            self.client.send(messages.Configure(messages.Settings(*flags)))
            self._flags_number = self._flags_seen.setdefault(flags, len(self._flags_seen))
            self._flags = flags
        return self._flags_number

    def put(self, tensor: Tensor, *, host: bool = False) -> tuple[Reference, TensorMeta]:
        """Copy a local tensor's value to the worker; `host` keeps it in the worker's main memory."""
        meta_of(tensor)  # refuses layouts that cannot be sent
        if not has_memory(tensor):
            raise UnsupportedOpError(
                f"a {type(tensor).__name__} without memory of its own cannot be sent to worker {self.id}: send an "
                "ordinary tensor, outside of FakeTensorMode and of torch.func's transforms"
            )
        plain = isolated(lambda: dense(tensor.to("cpu")))
        meta = meta_of(plain)
        reference = Reference(self.client, self.client.reserve())
        self.client.put(messages.Put(reference.name, meta, host), bytes_of(plain), call_sites.current())
        return reference, meta

    def fetch(self, reference: Reference, *, moves: bool = False) -> Tensor:
        """Copy a value from the worker; `moves`: for another worker, if it is not private."""
        value, payload = self.fetch_value(reference, moves=moves)
        if value.meta is None:
            raise ProtocolError(f"worker {self.id} sent no tensor")
        return isolated(tensor_of, value.meta, payload)

    def fetch_value(self, reference: Reference, *, moves: bool = False) -> tuple[messages.Value, memoryview]:
        return self.client.request(
            lambda number: messages.Fetch(number, reference.name, reference.is_settled, moves), messages.Value
        )

    def read_generator(self) -> Tensor | None:
        if not self._sequential:
            return None
        value, payload = self.client.request(messages.ReadGenerator, messages.Value)
        return None if value.meta is None else tensor_of(value.meta, payload)

    def write_generator(self, state: Tensor) -> None:
        check_state(state, self.compute_device)
        self.client.send(messages.WriteGenerator(meta_of(state)), bytes_of(state.contiguous()))

    @property
    def sequential(self) -> bool:
        """Whether `manual_seed` is in force, so that commands need no seed."""
        return self._sequential


devices: Final[Devices[Worker]] = Devices()
install(devices)


def check_id(id: object) -> None:
    """Whether a new worker can have this id.

    :raises PtrTensorError: it cannot, or another worker has it.
    """
    if not isinstance(id, str) or not id or not id.isprintable() or len(id) > MAX_ID_CHARACTERS:
        raise PtrTensorError(
            f"a worker's id is a text of 1 to {MAX_ID_CHARACTERS} printable characters, for instance 'bob', "
            f"not {shown(id)}"
        )
    if id == local_worker.id:
        raise PtrTensorError(f"{id!r} is the id of this process, ptrtensor.local_worker: choose another id")
    devices.check_free(id)


def check_worker(worker: object, call: str) -> None:
    """Whether this is somebody who holds tensors.

    :raises PtrTensorError: it is not.
    """
    if not isinstance(worker, Worker):
        fetching = "; get() brings a value to this process" if isinstance(worker, LocalWorker) else ""
        raise PtrTensorError(
            f"{call} takes a worker itself, for instance bob after bob = VirtualWorker(id='bob'), "
            f"not {shown(worker)}{fetching}"
        )
