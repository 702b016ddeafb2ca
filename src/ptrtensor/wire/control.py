"""What a server and its sessions' processes say to each other, on one machine. None of it comes from a client."""

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from ptrtensor.wire.messages import Release
from ptrtensor.wire.metadata import TensorMeta

if TYPE_CHECKING:
    Bytes = bytes | memoryview
else:
    Bytes = memoryview
"""Of what may be large: as it arrives it is a part of the message, and no copy."""

MOST: Final = 2**63 - 1
"""Of bytes that are told: a view of one number may have more."""


class Publication(msgspec.Struct, frozen=True):
    """A tensor that its owner published: where its bytes lie, and what a client may know of it."""

    name: str
    tags: tuple[str, ...]
    description: str
    private: bool
    file: str
    offset: int
    meta: TensorMeta


class Grant(msgspec.Struct, frozen=True):
    """What a client may do with one private publication: patterns of operations, and whether what is computed from it
    may be read. `rule` names to people what says so.
    """

    read: Literal["never", "ask", "always"] = "never"
    limited: bool = False
    operations: tuple[str, ...] = ("*",)
    refused: tuple[str, ...] = ()
    rule: str = ""


class Quota(msgspec.Struct, frozen=True):
    """What one session may use: bytes of memory, objects. `metered`: what it does is counted by the server too."""

    memory: int | None = None
    objects: int | None = None
    metered: bool = False


class Assign(msgspec.Struct, frozen=True, tag=True):
    """Serve this client on the socket that comes along."""

    worker: str
    epoch: str
    client: str
    publications: tuple[Publication, ...]
    grants: dict[str, Grant] = {}
    quota: Quota = Quota()


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A process waits for a client."""


DENIALS_TOLD_SINGLY: Final = 1000
"""Of a session, in an hour; more of one kind are told of at its second, fourth, eighth, ... time."""

KINDS_OF_DENIALS: Final = 1000
"""That are told apart; the rest is one kind."""


class Denial(msgspec.Struct, frozen=True, tag=True):
    """A client asked for what it may not have: what it was, of which private publications, so many times. The rest is
    of the last one: the object, as far as there is one, what made it or was to, what it is or would be, and its bytes.
    """

    what: str
    labels: tuple[str, ...] = ()
    count: int = 1
    name: int | None = None
    operation: str = ""
    tensor: str = ""
    size: int | None = None
    request: str = ""
    """That was to be collected."""

    @property
    def kind(self) -> tuple[str, tuple[str, ...]]:
        return self.what, self.labels


class Offence(msgspec.Struct, frozen=True, tag=True):
    """The client is refused, and with this the session ends: why."""

    reason: str


class Reading(msgspec.Struct, frozen=True, tag=True):
    """May the client have this? Asked of what the rules allow to be read; answered by a `Verdict`."""

    what: str
    name: int
    tensor: str
    labels: tuple[str, ...]
    elements: int
    size: int
    operation: str = ""
    """The last that made it; none where it is as it was published."""

    @property
    def denial(self) -> Denial:
        return Denial(self.what, self.labels, 1, self.name, self.operation, self.tensor, self.size or None)


class Consumption(msgspec.Struct, frozen=True, tag=True):
    """What was used since the last; answered by a `Verdict`: whether the client may use more."""

    operations: int
    seconds: float


class Asking(msgspec.Struct, frozen=True, tag=True):
    """The client asks for the release of a value: the value itself, or why there is none. Answered by a `Filed`."""

    name: int
    labels: tuple[str, ...]
    reason: str
    meta: TensorMeta | None
    value: bytes
    failure: str
    operation: str = ""

    @property
    def denial(self) -> Denial:
        """That it may not even be asked for."""
        tensor = "" if self.meta is None else str(self.meta)
        return Denial("a request", self.labels, 1, self.name, self.operation, tensor, len(self.value))


class Listing(msgspec.Struct, frozen=True, tag=True):
    """What has the client asked for? Answered by a `Filed`."""


class Collecting(msgspec.Struct, frozen=True, tag=True):
    """The client wants what was approved; answered by a `Collected`, or by a `Verdict` against it."""

    id: str


class Inviting(msgspec.Struct, frozen=True, tag=True):
    """The client wants a letter; answered by an `Invited`."""


class Sealing(msgspec.Struct, frozen=True, tag=True):
    """A value is to move to whoever wrote the letter, or why there is none; answered by a `Boxed`."""

    name: int
    labels: tuple[str, ...]
    letter: bytes
    size: int
    meta: TensorMeta | None
    value: Bytes
    failure: str
    operation: str = ""


class Unsealing(msgspec.Struct, frozen=True, tag=True):
    """A box has come; answered by an `Unsealed`."""

    box: Bytes


class Invited(msgspec.Struct, frozen=True, tag=True):
    letter: bytes


class Boxed(msgspec.Struct, frozen=True, tag=True):
    box: Bytes


class Unsealed(msgspec.Struct, frozen=True, tag=True):
    """What was in a box, and what the client may do with its labels."""

    labels: tuple[str, ...]
    grants: dict[str, Grant]
    meta: TensorMeta | None
    value: Bytes
    failure: str


class Verdict(msgspec.Struct, frozen=True, tag=True):
    """The reason why not; empty where it is allowed."""

    against: str = ""


class Filed(msgspec.Struct, frozen=True, tag=True):
    """The client's requests."""

    releases: list[Release]


class Collected(msgspec.Struct, frozen=True, tag=True):
    """The value of a request, or why there is none."""

    meta: TensorMeta | None
    value: bytes
    failure: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """Asks for a `Reported`."""


class Reported(msgspec.Struct, frozen=True, tag=True):
    """What a session holds and has done."""

    commands: int
    operations: int
    objects: int
    object_bytes: int


Question = Denial | Offence | Reading | Consumption | Asking | Listing | Collecting | Inviting | Sealing | Unsealing
"""What a session's process asks of the owner, or tells."""

Answer = Verdict | Filed | Collected | Invited | Boxed | Unsealed

FromServer = Assign | Report | Answer
FromSession = Ready | Reported | Question
