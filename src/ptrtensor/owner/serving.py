"""From an owner's files to a server, and all of it back: what `ptrtensor serve` and `DataServer` have in common."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ptrtensor.errors import IdentityError, PtrTensorError
from ptrtensor.owner import keys
from ptrtensor.owner.audit import Audit
from ptrtensor.owner.datasets import Datasets
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.options import Options
from ptrtensor.owner.policy import Policy, read_policy
from ptrtensor.owner.server import Limits, Server
from ptrtensor.owner.state import BESIDE, State
from ptrtensor.transport.addresses import format_address, parse_address
from ptrtensor.transport.tls import Credentials
from ptrtensor.worker.listener import check_device, network_listener


@dataclass(frozen=True)
class Prepared:
    """All that a server needs; none runs yet."""

    datasets: Datasets
    policy: Policy
    listener: socket.socket
    serving: Callable[[], AbstractContextManager[Server]]
    """The server, which lets clients in once it is told to; stopped in the end."""

    @property
    def address(self) -> str:
        return format_address(*self.listener.getsockname()[:2])


@contextmanager
def prepared(options: Options) -> Iterator[Prepared]:
    """Files read, an address taken, the state and the log opened; closed and removed in the end.

    :raises PtrTensorError: the options cannot be served with.
    :raises OSError: the address is another machine's, or taken.
    """
    credentials = Credentials(options.identity, options.trust)
    certificate = keys.read_certificate(credentials.certificate)
    keys.check_not_expired(certificate, credentials.certificate)
    if keys.is_authority(certificate):
        raise IdentityError(
            f"{options.identity} is an authority: it signs for others and does not serve. Make another identity"
        )
    check_apart(options.audit, options.state)
    address = parse_address(options.listen, lowest_port=0)
    check_device(options.compute_device)
    policy, digest = Policy(), ""
    if options.policy is not None:
        policy = read_policy(options.policy)
        digest = hashlib.sha256(options.policy.read_bytes()).hexdigest()  # by which an auditor knows the file again
    with (
        Datasets() as datasets,
        network_listener(*address) as listener,
        audit_log(options.audit) as audit,
        contextlib.closing(State(options.state)) as state,
    ):
        state.claim()
        state.forget_old()
        for path in options.data:
            datasets.add(path)

        @contextmanager
        def serving() -> Iterator[Server]:
            server = Server(
                options.id,
                listener,
                credentials,
                datasets.publications,
                compute_device=options.compute_device,
                threads=options.threads,
                limits=Limits(sessions=options.sessions, memory=options.max_memory, objects=options.max_objects),
                patience=Patience(lease=options.lease),
                policy=policy,
                policy_digest=digest,
                state=state,
                audit=audit,
            )
            try:
                yield server
            finally:
                server.stop("the worker was stopped by its owner")

        yield Prepared(datasets, policy, listener, serving)


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


@contextmanager
def audit_log(path: Path | None) -> Iterator[Audit | None]:
    """The log, on the disk when this ends; None where none is kept."""
    if path is None:
        yield None
        return
    log = Audit(path)
    try:
        yield log
    finally:
        log.close()
