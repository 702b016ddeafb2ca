"""What a worker tells of its tensors [P5.7]: held against what can be, before a pointer is made of it."""

from ptrtensor.errors import ProtocolError
from ptrtensor.tensor.cache import Extent
from ptrtensor.tensor.operation import Kind, Operation
from ptrtensor.wire import messages
from ptrtensor.wire.limits import MAX_RESULTS
from ptrtensor.wire.metadata import interned


def told_extent(extent: messages.Extent) -> Extent:
    """:raises ProtocolError: no tensor is like that [P3.4]."""
    extent.check()
    return Extent(interned(extent.meta), extent.offset)


def check_number(told: messages.Described, operation: Operation, written: int) -> None:
    """Whether a worker told of as many tensors as the operation, which writes to so many, can have left [P5.7].

    :raises ProtocolError: of more or fewer.
    """
    least = operation.kinds.count(Kind.FRESH)
    most = MAX_RESULTS if Kind.FRESH_LIST in operation.kinds else least
    if not least <= len(told.fresh) <= most or len(told.written) != written:
        raise ProtocolError(
            f"the worker tells of {len(told.fresh)} results of {operation.op}, and {len(told.written)} arguments that "
            f"it wrote to, which are {written}"
        )


def check_names(found: messages.Found, first: int) -> None:
    """Whether what was found has the names that were reserved for it, from this one on.

    :raises ProtocolError: it has others.
    """
    names = [entry.name for entry in found.entries]
    if names != list(range(first, first + min(len(names), MAX_RESULTS))):
        raise ProtocolError(f"the worker gives what it found other names than the {MAX_RESULTS} from {first} on")
