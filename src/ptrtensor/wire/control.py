"""What a server and its sessions' processes say to each other, on one machine. None of it comes from a client."""

import msgspec

from ptrtensor.wire.metadata import TensorMeta


class Publication(msgspec.Struct, frozen=True):
    """A tensor that its owner published: where its bytes lie, and what a client may know of it."""

    name: str
    tags: tuple[str, ...]
    description: str
    private: bool
    file: str
    offset: int
    meta: TensorMeta


class Assign(msgspec.Struct, frozen=True, tag=True):
    """Serve this client on the socket that comes along."""

    worker: str
    epoch: str
    client: str
    publications: tuple[Publication, ...]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A process waits for a client."""


class Denial(msgspec.Struct, frozen=True, tag=True):
    """A client asked for what it may not have: what it was, of which private publications, so many times."""

    what: str
    labels: tuple[str, ...]
    count: int


class Report(msgspec.Struct, frozen=True, tag=True):
    """Asks for a `Reported`."""


class Reported(msgspec.Struct, frozen=True, tag=True):
    """What a session holds and has done."""

    commands: int
    operations: int
    objects: int
    object_bytes: int


FromServer = Assign | Report
FromSession = Ready | Denial | Reported
