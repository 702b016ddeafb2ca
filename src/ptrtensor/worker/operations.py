"""Which operations a worker runs: torch's own, by name, less those that reach beyond tensors [P5.5]."""

from typing import Final

from torch._ops import OpOverload

from ptrtensor._torch.operations import resolve_op
from ptrtensor.errors import ProtocolError, UnsupportedOpError
from ptrtensor.wire.limits import NAMESPACES

REFUSED: Final = frozenset({"aten::from_file"})
"""It would read the worker's files."""


def operation(name: str) -> OpOverload[..., object]:
    """The operation of that name.

    :raises ProtocolError: it is not one of torch's own.
    :raises UnsupportedOpError: the operation is refused, or this worker's torch has none of that name.
    """
    if name.partition("::")[0] not in NAMESPACES:
        raise ProtocolError(f"only torch's own operations run at a worker, not {name[:80]!r}")
    if name.partition(".")[0] in REFUSED:
        raise UnsupportedOpError(f"{name} is not run for a client: it reaches beyond tensors")
    op = resolve_op(name)
    if op is None:
        raise UnsupportedOpError(f"this worker's torch has no operation {name[:80]!r}: the two sides' torch differ")
    return op
