"""A server of private data in this process, whose sessions are processes of their own; and those who connect to it."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ptrtensor as pt
from ptrtensor.owner import keys
from ptrtensor.owner.audit import Audit
from ptrtensor.owner.datasets import Datasets
from ptrtensor.owner.hosted_session import Patience
from ptrtensor.owner.policy import Policy
from ptrtensor.owner.server import Server
from ptrtensor.owner.sessions import Limits
from ptrtensor.owner.state import State
from ptrtensor.transport.tls import Credentials
from ptrtensor.worker.listener import network_listener

PATIENT = Patience(lease=20.0, keep_alive=5.0, handshake=5.0)
SECONDS = 60.0


@dataclass
class Hospital:
    """Where it listens, and where its clients' identities and trust are."""

    server: Server
    port: int
    folder: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(
        self, *, id: str = "bob", who: str = "alice", port: int | None = None, answer_seconds: float | None = None
    ) -> pt.RemoteWorker:
        return pt.RemoteWorker(
            f"127.0.0.1:{self.port if port is None else port}",
            id=id,
            identity=self.folder / who,
            trust=self.folder / "trusts-bob",
            keep_alive_seconds=5.0,
            reconnect_seconds=20.0,
            refused_seconds=20.0,
            answer_seconds=answer_seconds,
        )


def make_keys(
    folder: Path, clients: tuple[str, ...] = ("alice", "carol"), strangers: tuple[str, ...] = ("eve",)
) -> None:
    """bob and his clients, who trust each other; and strangers, who trust bob."""
    for name in ("bob", *clients, *strangers):
        keys.new_identity(name, folder)
    keys.trust(folder / "bob" / "bob.pem", folder / "trusts-bob")
    for name in clients:
        keys.trust(folder / name / f"{name}.pem", folder / "trusted")


@contextlib.contextmanager
def open_hospital(
    folder: Path,
    data: Path | None = None,
    *,
    limits: Limits = Limits(),  # noqa: B008
    patience: Patience = PATIENT,
    ahead: int = 1,
    policy: Policy = Policy(),  # noqa: B008
    audit: Audit | None = None,
) -> Iterator[Hospital]:
    if not (folder / "bob").exists():
        make_keys(folder)
    with (
        Datasets() as datasets,
        network_listener("127.0.0.1", 0) as listener,
        contextlib.closing(State(folder / "state.sqlite")) as state,
    ):
        if data is not None:
            datasets.add(data)
        server = Server(
            "bob",
            listener,
            Credentials(folder / "bob", folder / "trusted"),
            datasets.publications,
            threads=1,
            ahead=ahead,
            limits=limits,
            patience=patience,
            policy=policy,
            state=state,
            audit=audit,
        )
        port = listener.getsockname()[1]

        def serve() -> None:
            with contextlib.suppress(pt.AuditError):  # its clients hear of it
                server.serve_forever()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield Hospital(server, port, folder)
        finally:
            server.stop("the test is over")
            thread.join(SECONDS)
            assert not thread.is_alive()
