"""From an owner's files to a server, and all of it back: what `ptrtensor serve` and `DataServer` have in common."""

import contextlib
import hashlib
import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from ptrtensor.errors import IdentityError, PtrTensorError
from ptrtensor.owner import keys
from ptrtensor.owner.audit import Audit
from ptrtensor.owner.datasets import Datasets
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.options import Options
from ptrtensor.owner.policy import Policy, read_policy
from ptrtensor.owner.server import Server
from ptrtensor.owner.sessions import Limits
from ptrtensor.owner.state import BESIDE, State
from ptrtensor.transport.addresses import format_address, parse_address
from ptrtensor.transport.tls import Credentials
from ptrtensor.worker.listener import check_device, network_listener


class Prepared(AbstractContextManager["Prepared"]):
    """All that a server needs: files read, an address taken, the state and the log opened.

    Where it is dropped and not closed, as a forked child does with what is its parent's, nothing of it is stopped,
    written or removed.

    :raises PtrTensorError: the options cannot be served with.
    :raises OSError: the address is another machine's, or taken.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._credentials = Credentials(options.identity, options.trust)
        check_identity(self._credentials)
        check_apart(options.audit, options.state)
        address = parse_address(options.listen, lowest_port=0)
        check_device(options.compute_device)
        self.policy, self._policy_digest = Policy(), ""
        if options.policy is not None:
            self.policy = read_policy(options.policy)
            # By which an auditor knows the file again.
            self._policy_digest = hashlib.sha256(options.policy.read_bytes()).hexdigest()
        with contextlib.ExitStack() as stack:
            self.datasets = stack.enter_context(Datasets())
            self._listener = stack.enter_context(network_listener(*address))
            self._audit: Audit | None = None
            if options.audit is not None:
                self._audit = stack.enter_context(contextlib.closing(Audit(options.audit)))
            self._state = stack.enter_context(contextlib.closing(State(options.state)))
            self._state.claim()
            self._state.forget_old()
            for path in options.data:
                self.datasets.add(path)
            self._open = stack.pop_all()

    @property
    def address(self) -> str:
        return format_address(*self._listener.getsockname()[:2])

    def server(self) -> Server:
        """It lets clients in once it is told to, and is stopped by `close`."""
        options = self._options
        server = Server(
            options.id,
            self._listener,
            self._credentials,
            self.datasets.publications,
            compute_device=options.compute_device,
            threads=options.threads,
            limits=Limits(sessions=options.sessions, memory=options.max_memory, objects=options.max_objects),
            patience=Patience(lease=options.lease),
            policy=self.policy,
            policy_digest=self._policy_digest,
            state=self._state,
            audit=self._audit,
        )
        self._open.callback(server.stop, "the worker was stopped by its owner")
        return server

    def close(self) -> None:
        """Stop the server, if there is one, and close and remove the rest."""
        self._open.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def check_identity(credentials: Credentials) -> None:
    """:raises IdentityError: nobody would trust it, or it is not made to serve with."""
    certificate = keys.read_certificate(credentials.certificate)
    keys.check_not_expired(certificate, credentials.certificate)
    if keys.is_authority(certificate):
        raise IdentityError(
            f"{credentials.identity} is an authority: it signs for others and does not serve. Make another identity"
        )


def check_apart(audit: Path | None, state: Path) -> None:
    """Before either is written to.

    :raises PtrTensorError: they are one file, or one is beside the other for SQLite.
    """
    if audit is None:
        return
    taken = [os.path.realpath(state) + ending for ending in ("", *BESIDE)]
    linked = os.path.exists(audit) and any(os.path.exists(file) and os.path.samefile(file, audit) for file in taken)
    if linked or os.path.realpath(audit) in taken:
        raise PtrTensorError(
            f"the audit log {audit} and the state {state} are one file, or the log is one that belongs to the state: "
            "name another with --audit or --state"
        )
