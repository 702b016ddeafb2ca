"""The workers, where the parts are put together: a worker is a device, a client and a transport."""

import atexit
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn

import torch
from torch import Tensor

from ptrtensor._torch.memory import allocate, meta_of
from ptrtensor.client.client import Client
from ptrtensor.client.reference import Reference
from ptrtensor.errors import IdentityError, PtrTensorError, WorkerLostError
from ptrtensor.paths import path_of
from ptrtensor.progress import terminal_bars
from ptrtensor.tensor import worker as tensor_worker
from ptrtensor.tensor.arguments import check_publishable, checked_tags, checked_texts, shown
from ptrtensor.tensor.autocast import Autocast
from ptrtensor.tensor.hook import TorchHook
from ptrtensor.tensor.pointer import PointerTensor, wrap
from ptrtensor.tensor.told import check_names, told_extent
from ptrtensor.tensor.worker import call_sites, check_id, devices
from ptrtensor.transport.addresses import parse_address
from ptrtensor.transport.base import Transport
from ptrtensor.transport.dialing import Dialer
from ptrtensor.transport.inprocess import InProcessTransport
from ptrtensor.transport.linked import Linked
from ptrtensor.transport.process import START_SECONDS, WorkerProcess
from ptrtensor.transport.sockets import SocketTransport, connect
from ptrtensor.transport.tls import Credentials
from ptrtensor.verbs import send
from ptrtensor.version import __version__
from ptrtensor.wire import messages
from ptrtensor.wire.control import Publication
from ptrtensor.wire.limits import MAX_RESULTS
from ptrtensor.wire.metadata import contiguous_stride, intern
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.session import Session

FLUSH_SECONDS: Final = 0.004
"""How long the end of a batch may lie while the caller does something else."""

GREETING_SECONDS: Final = 15.0
"""How long somebody who took our connection may take to answer; a process that is starting gets longer."""

EXIT_SECONDS: Final = 15.0
"""How long the end of this process waits for a worker from which nothing comes."""

Worker = tensor_worker.Worker


class ConnectedWorker(Worker):
    """A worker at the other end of a transport."""

    def __init__(self, id: str, transport: Transport, token: str = "", seconds: float = GREETING_SECONDS) -> None:
        synchronous = os.environ.get("PTRTENSOR_SYNC") == "1"
        client = Client(transport, id, synchronous=synchronous, idle_seconds=FLUSH_SECONDS, call_sites=call_sites)
        try:
            welcome = client.greet(str(torch.__version__), token, seconds)
            super().__init__(id, client, welcome.compute_device)
        except BaseException:
            devices.release(self)
            client.hang_up()
            raise

    def send(self, tensor: Tensor) -> PointerTensor:
        return send(tensor, self)

    def search(self, *tags: str) -> list[PointerTensor]:
        """Pointers to the worker's objects that have all of these tags, 65536 of them at most.

        :raises PtrTensorError: a tag is no str, or none that can travel.
        """
        texts = checked_texts(tags, "search()")
        first = self.client.reserve(MAX_RESULTS)
        found, _ = self.client.request(lambda number: messages.Search(number, texts, first), messages.Found)
        check_names(found, first)
        return [self._found(entry) for entry in found.entries]

    def autocast(
        self, dtype: torch.dtype | None = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> Autocast:
        """Mixed precision for pointers of this worker, on this thread: `torch.autocast` of its kind of device.

        :param dtype: `torch.bfloat16` or `torch.float16`; by default the first on a CPU, the second on CUDA.
        :param enabled: False switches it off for a part of the program.
        :param cache_enabled: whether a parameter is cast once; by default as torch is set.
        """
        return Autocast(self.casting, dtype, enabled, cache_enabled)

    def _found(self, entry: messages.Entry) -> PointerTensor:
        extent = told_extent(entry.extent)
        pointer = wrap(self, Reference(self.client, entry.name), extent.meta, extent.offset)
        pointer.__dict__.update(_tags=entry.tags, _description=entry.description)
        return pointer


class VirtualWorker(ConnectedWorker):
    """A worker in this process: ``VirtualWorker(id="bob")``, or with the hook first as in the tutorial.

    :raises PtrTensorError: the id is taken or cannot be one, or there are 127 workers.
    """

    def __init__(self, hook: TorchHook | None = None, *, id: str) -> None:
        check_id(id)
        self._session = Session(Identity(id, __version__, str(torch.__version__)), in_process=True)
        super().__init__(id, InProcessTransport(self._session.handle, allocate))

    def publish(
        self, tensor: Tensor, *, name: str, tags: Iterable[str] = (), description: str = "", private: bool = True
    ) -> None:
        """Offer a copy of a tensor to whoever searches for its tags, as the owner of the data.

        What is private, and all that is computed from it, cannot be fetched: the client gets a `PermissionDeniedError`.
        A worker in this process hides nothing from this process; it is for trying out what a client may do.

        :raises PtrTensorError: a tag is no str, or the tensor cannot live at a worker.
        """
        check_publishable(tensor)
        meta = meta_of(tensor)
        contiguous = intern(meta.shape, contiguous_stride(meta.shape), meta.dtype)
        texts = checked_tags(tags)
        self._session.publish(Publication(name, texts, description, private, "", 0, contiguous), tensor)

    @property
    def objects(self) -> Mapping[int, Tensor]:
        """Name to tensor, read-only: the tensors themselves."""
        self.client.check()
        self.client.flush()
        return MappingProxyType(self._session.store.listed())

    @property
    def _objects(self) -> Mapping[int, Tensor]:
        """The tutorial's spelling of `objects`."""
        return self.objects

    def close(self, *, patience_seconds: float | None = None) -> None:
        super().close(patience_seconds=patience_seconds)
        self._session.store.clear()

    def __repr__(self) -> str:
        if self.client.lost is not None:
            return super().__repr__()
        return f"<VirtualWorker id:{self.id} #objects:{len(self.objects)}>"


class ProcessWorker(ConnectedWorker):
    """A worker in a process of its own on this machine, which ends with this one, however this one ends.

    Works at the top level of a script, in a notebook and in a REPL. `compute_device` is where it computes, for
    instance ``"cuda"``. With `answer_seconds` it counts as lost when it does nothing for so long while this process
    waits for it; an operation may take its time, so by default it never does.

    :raises PtrTensorError: the id is taken or cannot be one, or there are 127 workers; torch has no such device.
    :raises ProtocolError: the process cannot compute on that device.
    :raises WorkerLostError: the process did not start.
    """

    def __init__(
        self, id: str, compute_device: str | torch.device = "cpu", *, answer_seconds: float | None = None
    ) -> None:
        check_id(id)
        self._process = WorkerProcess(id, device_name(compute_device))
        try:
            sending, receiving = terminal_bars(id)
            transport = SocketTransport(self._process.socket, f"worker {id}", sending, receiving, allocate)
            super().__init__(id, transport, self._process.token, START_SECONDS)
            transport.answer_seconds = answer_seconds
        except BaseException:
            self._process.end()
            raise

    def close(self, *, patience_seconds: float | None = None) -> None:
        try:
            super().close(patience_seconds=patience_seconds)
        finally:
            self._process.end()

    def abandon(self) -> None:
        super().abandon()
        self._process.abandon()


def device_name(device: object) -> str:
    """How torch calls this device; whether one can compute there is for the worker to say.

    :raises PtrTensorError: torch knows no such device.
    """
    if not isinstance(device, str | torch.device):
        raise PtrTensorError(f"compute_device is a str or torch.device, for instance 'cuda', not {shown(device)}")
    try:
        return str(torch.device(device))
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise PtrTensorError(f"there is no compute_device {device!r}: {reason}") from error


class RemoteWorker(ConnectedWorker):
    """A worker that somebody serves.

    With `identity` and `trust`, of ``ptrtensor serve``: ``RemoteWorker("bob.example:7700", identity="alice",
    trust="trusted")``. A connection that breaks is made anew, and nothing is lost. Without them, of ``python -m
    ptrtensor.worker --listen HOST:PORT`` on this machine.

    :param identity: directory of this side's certificate and key, as ``ptrtensor keys new`` makes it.
    :param trust: directory with the certificates of workers that this side trusts.
    :param connect_seconds: how long the network and the handshake may take.
    :param keep_alive_seconds: how long the connection may be silent; after three times that it counts as broken.
    :param reconnect_seconds: how long to try for a new connection when one broke.
    :param refused_seconds: how long of that, where the address refuses connections: nobody listens there any more.
    :param answer_seconds: how long the worker may do nothing while this process waits for it; then it counts as lost.
        None: for ever, since an operation may take its time.
    :raises PtrTensorError: the address has another form; the id is taken or cannot be one, or there are 127 workers.
    :raises IdentityError: a certificate or key cannot be used, or one side does not trust the other; it is another
        machine's address, and no identity is given.
    :raises WorkerLostError: nobody listens there.
    :raises VersionMismatchError: it runs another protocol or another torch.
    """

    def __init__(
        self,
        address: str,
        *,
        id: str | None = None,
        identity: str | os.PathLike[str] | None = None,
        trust: str | os.PathLike[str] | None = None,
        connect_seconds: float = 10.0,
        keep_alive_seconds: float = 15.0,
        reconnect_seconds: float = 60.0,
        refused_seconds: float = 10.0,
        answer_seconds: float | None = None,
    ) -> None:
        host, port = parse_address(address)
        name = address if id is None else id
        check_id(name)
        sending, receiving = terminal_bars(name)
        peer = f"worker {name}"
        transport: SocketTransport
        if identity is not None and trust is not None:
            credentials = Credentials(path_of(identity, "identity"), path_of(trust, "trust"))
            dialer = Dialer(host, port, credentials, name, id is not None, connect_seconds)
            patience = keep_alive_seconds, reconnect_seconds, refused_seconds
            transport = Linked(dialer, peer, *patience, sending, receiving, allocate)
        elif identity is None and trust is None:
            transport = connect(host, port, peer, sending, receiving, allocate)
        else:
            raise IdentityError("give both: identity= says who you are, and trust= whom you trust")
        try:
            super().__init__(name, transport, seconds=START_SECONDS if identity is not None else GREETING_SECONDS)
        except WorkerLostError as error:
            if identity is None:
                error.add_note("If ptrtensor serve listens there: it wants to know who you are, identity= and trust=.")
            raise
        transport.answer_seconds = answer_seconds


# --- the ends of this process


def close_all() -> None:
    """At exit: close the workers. An error that nobody saw is printed, and the process ends with status 1.

    `PTRTENSOR_EXIT_STATUS=0` leaves the status alone.
    """
    failed = False
    for worker in devices.all():
        try:
            worker.close(patience_seconds=EXIT_SECONDS)
        except PtrTensorError as error:
            failed = True
            notes = "\n".join(getattr(error, "__notes__", []))
            sys.stderr.write(f"ptrtensor: an error that nobody saw: {error}\n{notes}\n")
    if failed and os.environ.get("PTRTENSOR_EXIT_STATUS") != "0":
        sys.addaudithook(end_with_failure)


def end_with_failure(event: str, args: object, end: Callable[[int], NoReturn] = os._exit) -> None:
    """An audit hook. An exception in an exit handler does not change the status, and ending there would skip others'.

    This event comes when all of them have run and files are flushed; modules are gone by then, so `end` is kept here.
    """
    if event == "cpython.PyInterpreterState_Clear":
        end(1)


def abandon_all() -> None:
    """In a forked child: the workers are the parent's (D18)."""
    for worker in devices.all():
        worker.abandon()


atexit.register(close_all)
os.register_at_fork(after_in_child=abandon_all)
