"""`ptrtensor serve` from Python: an owner's program publishes tensors that it has, and clients come in beside it."""

import atexit
import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ptrtensor._torch.memory import bytes_of, dense, meta_of
from ptrtensor.errors import AuditError, PtrTensorError
from ptrtensor.owner.options import Options, lease_of, memory_of
from ptrtensor.paths import path_of
from ptrtensor.tensor.arguments import check_publishable, checked_tags, checked_texts

if TYPE_CHECKING:
    from ptrtensor.owner.server import Server
    from ptrtensor.owner.serving import Prepared

Location = str | os.PathLike[str]


class DataServer(AbstractContextManager["DataServer"]):
    """Serves data that stays private to those whose certificates are trusted, until `close` or the end of `with`.

    What ``ptrtensor serve`` does, in a thread of this process; each client's session has a process of its own. The
    parameters are the options of that command. Needs the extra `serve`.

        with pt.DataServer(id="bob", identity="bob", policy="policy.toml") as server:
            server.publish(patients, name="patients", tags=["#patients"])
            print(server.address)

    :raises PtrTensorError: a file, address, size or number cannot be used, or the extra is missing.
    :raises OSError: the address is another machine's, or taken.
    """

    def __init__(
        self,
        listen: str = Options.listen,
        *,
        id: str,
        identity: Location,
        trust: Location = Options.trust,
        data: Iterable[Location] = (),
        policy: Location | None = None,
        state: Location = Options.state,
        audit: Location | None = None,
        compute_device: str | torch.device = Options.compute_device,
        threads: int | None = None,
        sessions: int = Options.sessions,
        max_memory: int | str | None = None,
        max_objects: int = Options.max_objects,
        lease: float = Options.lease,
    ) -> None:
        if isinstance(data, str | os.PathLike):
            raise PtrTensorError(f"data takes a list of files, for instance [{data!r}], not a single one")
        (self.id,) = checked_texts((id,), "DataServer(id=)")
        options = Options(
            id=self.id,
            identity=path_of(identity, "identity"),
            trust=path_of(trust, "trust"),
            listen=listen,
            data=tuple(path_of(file, "data") for file in data),
            policy=None if policy is None else path_of(policy, "policy"),
            state=path_of(state, "state"),
            audit=None if audit is None else path_of(audit, "audit"),
            compute_device=str(compute_device),
            threads=threads,
            sessions=sessions,
            max_memory=memory_of(max_memory, "max_memory"),
            max_objects=max_objects,
            lease=lease_of(lease, "lease"),
        )
        with contextlib.ExitStack() as stack:
            self._prepared = stack.enter_context(preparing()(options))
            self._server = self._prepared.server()
            self._thread = threading.Thread(target=serve, args=(self._server,), name=f"server-{self.id}", daemon=True)
            self._thread.start()
            self.address = self._prepared.address
            stack.pop_all()
        self._process = os.getpid()
        self._is_closed = False
        atexit.register(self.close)

    def publish(
        self, tensor: Tensor, *, name: str, tags: Iterable[str] = (), description: str = "", private: bool = True
    ) -> None:
        """Offer a copy of a tensor to whoever searches for its tags, in the sessions that begin from now on.

        What is private, and all that is computed from it, leaves only as the policy says. Where one of its rules fits,
        that rule says too whether it is private; where none does, `private` does.

        :raises DatasetError: the name is taken or cannot be one, or the copy cannot be written to the disk.
        :raises AuditError: the audit log cannot be written; nothing is published, and the server stops.
        :raises PtrTensorError: the server is closed, a text is none, or such a tensor cannot live at a worker.
        """
        if self._is_closed:
            raise PtrTensorError(f"the server {self.id} is closed: publish before")
        check_publishable(tensor)
        texts = checked_tags(tags)
        name, description = checked_texts((name, description), "publish()")
        meta_of(tensor)  # refuses layouts and dtypes that no pointer has
        values = dense(tensor.detach().cpu()).contiguous()
        publication = self._prepared.datasets.publish(
            name, texts, description, bool(private), meta_of(values), bytes_of(values)
        )
        self._server.publish(publication)

    def close(self) -> None:
        """Tell the clients, end their sessions, write the log out and remove the copies. May be called twice.

        :raises AuditError: the audit log could not be written, so that the server had stopped before.
        """
        if self._is_closed or self._process != os.getpid():  # in a forked child it is the parent's
            return
        self._prepared.close()
        self._thread.join()
        self._is_closed = True  # not before: interrupted until here, another call goes on
        atexit.unregister(self.close)
        if self._server.broken is not None:
            raise self._server.broken

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DataServer id:{self.id} {'closed' if self._is_closed else f'on {self.address}'}>"


def serve(server: "Server") -> None:
    with contextlib.suppress(AuditError):  # `close` raises it
        server.serve_forever()


def preparing() -> "Callable[[Options], Prepared]":
    """:raises PtrTensorError: what it needs is not installed."""
    try:
        found: Callable[[Options], Prepared] = importlib.import_module("ptrtensor.owner.serving").Prepared
    except ModuleNotFoundError as error:
        raise PtrTensorError(f"to serve data needs {error.name}: pip install 'ptrtensor[serve]'") from error
    return found
