"""The closed set of messages [P4]. Anything else on the wire is a `ProtocolError`.

A message may have a payload, raw bytes that travel beside it: the values of a tensor, or a batch's commands.
"""

from itertools import accumulate
from operator import mul
from typing import Annotated, Final, Literal

import msgspec

from ptrtensor.errors import ProtocolError
from ptrtensor.wire.instruction import Instruction
from ptrtensor.wire.limits import MAX_REFUSAL_CHARACTERS
from ptrtensor.wire.metadata import ITEM_BYTES, TensorMeta

Status = Literal["pending", "approved", "denied", "collected"]
"""What became of a request for release."""

Name = Annotated[int, msgspec.Meta(ge=0)]
"""Of an object, as a client gives it. Those below zero are the worker's own."""


class Settings(msgspec.Struct, frozen=True, array_like=True):
    """The flags of the caller's process that change results; mirrored before the next command [P6]."""

    default_dtype: str = "float32"
    deterministic: bool = False
    deterministic_warn_only: bool = False
    fill_uninitialized: bool = True
    matmul_precision: str = "highest"
    flash_attention: bool = True
    memory_efficient_attention: bool = True
    math_attention: bool = True
    cudnn_attention: bool = True
    mkldnn: bool = True
    flush_denormal: bool = False


MOST: Final = 2**63 - 1
"""Of whatever torch counts: elements, bytes."""

NO_COMMAND: Final = -(1 << 63)
"""Stands for the sequence number in a failure that is of no command and of no name."""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """What went wrong with one command: its sequence number, the operation with its shapes, and why."""

    sequence: int
    operation: str
    error: str
    traceback: str


# --- from the client


class Hello(msgspec.Struct, frozen=True, tag=True):
    protocol: int
    ptrtensor: str
    torch: str
    token: str = ""


class Batch(msgspec.Struct, frozen=True, tag=True):
    """Definitions, and commands in the payload; `first` is the sequence number of the first command."""

    first: int
    count: int
    definitions: list[Instruction]


class Put(msgspec.Struct, frozen=True, tag=True):
    """A tensor by value, in the payload. `host` keeps it in the worker's main memory."""

    name: Name
    meta: TensorMeta
    host: bool = False


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """`early`: no command changes the value any more, so it may be answered before those that wait [P7.1].
    `moves`: it is to be another worker's, so what is private is to be sealed instead [P13.1].
    """

    request: int
    name: Name
    early: bool = False
    moves: bool = False


class Describe(msgspec.Struct, frozen=True, tag=True):
    """Ask for the metadata of the results that a command stored from `name` on."""

    request: int
    name: Name


class Hide(msgspec.Struct, frozen=True, tag=True):
    """Keep the object for the graph that needs it, but list it no more."""

    name: Name


class Annotate(msgspec.Struct, frozen=True, tag=True):
    name: Name
    tags: tuple[str, ...]
    description: str


class Search(msgspec.Struct, frozen=True, tag=True):
    """Give every object that has all the tags a further name, from `name` on."""

    request: int
    tags: tuple[str, ...]
    name: Name


class Inventory(msgspec.Struct, frozen=True, tag=True):
    request: int


class Synchronize(msgspec.Struct, frozen=True, tag=True):
    request: int


class Recover(msgspec.Struct, frozen=True, tag=True):
    request: int


class Configure(msgspec.Struct, frozen=True, tag=True):
    settings: Settings


class ManualSeed(msgspec.Struct, frozen=True, tag=True):
    """Numbers from one generator in order, instead of from the seed of each command; None ends that."""

    seed: int | None


class ReadGenerator(msgspec.Struct, frozen=True, tag=True):
    request: int


class WriteGenerator(msgspec.Struct, frozen=True, tag=True):
    """The state of the generator that `ManualSeed` began, in the payload."""

    meta: TensorMeta


class Statistics(msgspec.Struct, frozen=True, tag=True):
    request: int


class Measure(msgspec.Struct, frozen=True, tag=True):
    """From now on the time of each operation is measured, or no more."""

    request: int
    on: bool


class AskRelease(msgspec.Struct, frozen=True, tag=True):
    """Ask the owner of the data to release a private value; answered by a `Releases` of that one."""

    request: int
    name: Name
    reason: str


class ListReleases(msgspec.Struct, frozen=True, tag=True):
    """What has this client asked for, in this session and others?"""

    request: int


class CollectRelease(msgspec.Struct, frozen=True, tag=True):
    """The value that the owner approved; it can be had once."""

    request: int
    id: str


class Invite(msgspec.Struct, frozen=True, tag=True):
    """Ask for a letter, with which another worker can seal a value for this one; answered by an `Invitation`."""

    request: int


class Seal(msgspec.Struct, frozen=True, tag=True):
    """Seal a value for whoever wrote the letter; answered by a `Sealed`. `size`: its bytes, as predicted."""

    request: int
    name: Name
    letter: bytes
    size: int


class Unseal(msgspec.Struct, frozen=True, tag=True):
    """A sealed value, in the payload, under that name; answered by `Done`."""

    request: int
    name: Name


class Bye(msgspec.Struct, frozen=True, tag=True):
    request: int


# --- from the worker


class Welcome(msgspec.Struct, frozen=True, tag=True):
    protocol: int
    ptrtensor: str
    torch: str
    worker: str
    epoch: str
    compute_device: str


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The last message of a worker that will not go on: it says why, then closes."""

    reason: str
    version: bool = False


def told(reason: str) -> str:
    """As much of it as a refusal may say, without what is no text [P3.1]: it may quote what a client made up."""
    return reason[:MAX_REFUSAL_CHARACTERS].encode(errors="replace").decode()


class Value(msgspec.Struct, frozen=True, tag=True):
    """A tensor's value in the payload, or a number that an operation returned."""

    request: int
    meta: TensorMeta | None = None
    scalar: bool | int | float | None = None


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """Metadata, and the storage offset in elements."""

    meta: TensorMeta
    offset: int

    def check(self) -> None:
        """Refuse what no tensor can have, of which a pointer was to be made [P3.4]."""
        meta = self.meta
        meta.check()
        end = self.offset * ITEM_BYTES[meta.dtype] + meta.extent
        numbers = (*meta.shape, *accumulate(meta.shape, mul), *meta.stride, self.offset, end)
        if not all(0 <= number <= MOST for number in numbers):
            raise ProtocolError("the peer tells of a tensor that is larger than any, or lies where none can")
        if meta.conj and not meta.dtype.startswith("complex"):
            raise ProtocolError(f"the peer tells of a {meta.dtype} that is to be conjugated")


class Described(msgspec.Struct, frozen=True, tag=True):
    """What a command left behind: its fresh results (None: undefined), and the arguments that it wrote to."""

    request: int
    fresh: list[Extent | None]
    written: list[Extent]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One object of an inventory or search."""

    name: int
    extent: Extent
    tags: tuple[str, ...]
    description: str


class Found(msgspec.Struct, frozen=True, tag=True):
    request: int
    entries: list[Entry]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The request cannot be answered, because of that failure."""

    request: int
    failure: Failure


class Missing(msgspec.Struct, frozen=True, tag=True):
    request: int
    name: int


class Denied(msgspec.Struct, frozen=True, tag=True):
    """The policy of the data's owner refuses the request."""

    request: int
    reason: str


class Release(msgspec.Struct, frozen=True, array_like=True):
    """A request for a private value, and what became of it."""

    id: str
    status: Status
    reason: str
    asked: str
    """When, as ISO 8601 in UTC."""
    answer: str
    """What the owner says to it."""


class Releases(msgspec.Struct, frozen=True, tag=True):
    request: int
    releases: list[Release]


class Invitation(msgspec.Struct, frozen=True, tag=True):
    request: int
    letter: bytes


class Sealed(msgspec.Struct, frozen=True, tag=True):
    """A value that only its addressee can read, in the payload."""

    request: int


class Done(msgspec.Struct, frozen=True, tag=True):
    request: int


class Acknowledged(msgspec.Struct, frozen=True, tag=True):
    """Every command below `sequence` has run; the failures among those not acknowledged before."""

    sequence: int
    failures: list[Failure]


class Counters(msgspec.Struct, frozen=True, tag=True):
    request: int
    commands: int
    operations: int
    objects: int
    object_bytes: int
    poisoned: int


class Timing(msgspec.Struct, frozen=True, array_like=True):
    """What the runs of one operation took, in seconds of the worker's clock."""

    operation: str
    count: int
    seconds: float


class Measured(msgspec.Struct, frozen=True, tag=True):
    """What was measured until now."""

    request: int
    timings: list[Timing]


ClientMessage = (
    Hello
    | Batch
    | Put
    | Fetch
    | Describe
    | Hide
    | Annotate
    | Search
    | Inventory
    | Synchronize
    | Recover
    | Configure
    | ManualSeed
    | ReadGenerator
    | WriteGenerator
    | Statistics
    | Measure
    | AskRelease
    | ListReleases
    | CollectRelease
    | Invite
    | Seal
    | Unseal
    | Bye
)
WorkerMessage = (
    Welcome
    | Refused
    | Value
    | Described
    | Found
    | Failed
    | Missing
    | Denied
    | Releases
    | Invitation
    | Sealed
    | Done
    | Acknowledged
    | Counters
    | Measured
)
Message = ClientMessage | WorkerMessage

Reply = (
    Value | Described | Found | Failed | Missing | Denied | Releases | Invitation | Sealed | Done | Counters | Measured
)
"""The messages that answer a request, each by its number."""

PAYLOAD_OF_TENSOR: Final = (Put, Value, WriteGenerator)
"""Messages whose payload is the value of the tensor that their `meta` describes."""

SEALED_PAYLOAD: Final = (Sealed, Unseal)
"""Messages whose payload only its addressee can read."""
