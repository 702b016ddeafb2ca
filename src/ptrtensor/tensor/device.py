"""Workers as torch devices: which index is whose, and the module that torch finds as `torch.lazy`."""

import gc
import weakref
from types import ModuleType, TracebackType
from typing import Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ptrtensor._torch.names import DEVICE_TYPE, DISPATCH_KEY
from ptrtensor._torch.operations import has_kernel
from ptrtensor._torch.subclass import register_device_module
from ptrtensor.errors import PtrTensorError, WorkerLostError
from ptrtensor.locks import process_lock

MAX_INDEX: Final = 127
"""Torch keeps an index in 8 bits with a sign and wraps silently; and 0 belongs to nobody, because some calls lose
the index and give 0."""


class DeviceOwner(Protocol):
    """What stands behind an index."""

    id: str

    @property
    def alive(self) -> object:
        """What pointers keep alive: while it lives, the index is not given to another worker."""

    def read_generator(self) -> Tensor | None: ...

    def write_generator(self, state: Tensor) -> None: ...


W = TypeVar("W", bound=DeviceOwner)


def check_device_type() -> None:
    """Refuse to work where the device type of pointers has kernels of torch's own."""
    if has_kernel("aten::add.Tensor", DISPATCH_KEY):
        raise PtrTensorError(
            "torch._lazy.ts_backend.init() was called in this process; it takes the device type that pointers need. "
            "Use ptrtensor in a process without it."
        )


class Devices(Generic[W]):
    """Indices to workers, for this process."""

    def __init__(self) -> None:
        self._workers: dict[int, W] = {}
        self._closed: dict[int, tuple[str, weakref.ref[object]]] = {}
        self._lock = process_lock()

    def register(self, worker: W) -> torch.device:
        """A device for this worker.

        :raises PtrTensorError: the name is taken, or all indices are.
        """
        with self._lock:
            check_device_type()
            self.check_free(worker.id)
            index = self._free_index(worker.id)
            self._closed.pop(index, None)
            self._workers[index] = worker
        return torch.device(DEVICE_TYPE, index)

    def check_free(self, worker_id: str) -> None:
        """Whether a worker can have this name.

        :raises PtrTensorError: another one has it.
        """
        if any(other.id == worker_id for other in self.all()):
            raise PtrTensorError(f"there is a worker {worker_id!r} already: close() it first, or choose another id")

    def _free_index(self, worker_id: str) -> int:
        for attempt in range(2):
            for index in range(1, MAX_INDEX + 1):
                if index not in self._workers and (index not in self._closed or self._closed[index][1]() is None):
                    return index
            if attempt == 0:
                gc.collect()
        raise PtrTensorError(
            f"no device index is left for worker {worker_id!r}: torch has room for {MAX_INDEX} workers at a time; "
            "close() some and let go of their pointers"
        )

    def release(self, worker: W) -> None:
        """The worker is closed; its index waits until no pointer of it lives. May be called twice."""
        with self._lock:
            for index in [index for index, other in self._workers.items() if other is worker]:
                self._closed[index] = (worker.id, weakref.ref(worker.alive))
                del self._workers[index]

    def worker(self, device: torch.device) -> W:
        """Whose device it is.

        :raises WorkerLostError: its worker was closed.
        :raises PtrTensorError: it never had one.
        """
        worker = self._workers.get(device.index)
        if worker is not None:
            return worker
        if device.index in self._closed:
            raise WorkerLostError(
                f"{device} was worker {self._closed[device.index][0]!r}, which is closed: nothing can be made there"
            )
        known = ", ".join(f"{DEVICE_TYPE}:{index} is {worker.id}" for index, worker in self._workers.items())
        raise PtrTensorError(
            f"no worker has the device {device} ({known or 'there are no workers'}); take a worker's own .device. "
            f"device={DEVICE_TYPE!r} says only the type: no worker has the index 0"
        )

    def all(self) -> list[W]:
        return list(self._workers.values())


class DeviceModule(ModuleType, Generic[W]):
    """What torch asks of an accelerator's module, for instance in `torch.utils.checkpoint`."""

    def __init__(self, devices: Devices[W]) -> None:
        super().__init__(f"torch.{DEVICE_TYPE}", "ptrtensor's workers as a device module of torch")
        self._devices = devices
        self._initialized = True
        self._current = 0

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return bool(self._devices.all())

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        """One more than the highest index in use."""
        return max((index for index in self._devices._workers), default=0) + 1

    def current_device(self) -> int:
        return self._current

    def set_device(self, device: int | torch.device) -> None:
        self._current = device if isinstance(device, int) else device.index

    def manual_seed_all(self, seed: int) -> None:
        """Seeds travel with each command; `Worker.manual_seed` is for the rest."""

    def get_rng_state(self, device: int | torch.device | None = None) -> Tensor:
        """The state of the generator that `Worker.manual_seed` began; empty without one."""
        state = self._at(device).read_generator()
        return torch.empty(0, dtype=torch.uint8, device="cpu") if state is None else state

    def set_rng_state(self, state: Tensor, device: int | torch.device | None = None) -> None:
        if state.numel():
            self._at(device).write_generator(state)

    def device(self, device: int | torch.device | None) -> "CurrentDevice":
        """A context in which that device is the current one."""
        return CurrentDevice(self, device)

    def _at(self, device: int | torch.device | None) -> W:
        index = device.index if isinstance(device, torch.device) else device
        return self._devices.worker(torch.device(DEVICE_TYPE, self._current if index is None else index))


class CurrentDevice:
    """Sets the current index of a device module and puts it back."""

    def __init__(self, module: DeviceModule[W], device: int | torch.device | None) -> None:
        self._module = module
        self._index = device.index if isinstance(device, torch.device) else device
        self._before = 0

    def __enter__(self) -> None:
        self._before = self._module.current_device()
        if self._index is not None:
            self._module.set_device(self._index)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._module.set_device(self._before)


def install(devices: Devices[W]) -> None:
    """Make the module known to torch as `torch.lazy`."""
    register_device_module(DeviceModule(devices))
