"""Which operations a worker runs: torch's own, by name, less those that reach beyond tensors [P5.5]."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from ptrtensor._torch.operations import native_kernel, op_arguments, op_returns, resolve_op, type_name, writes
from ptrtensor.errors import ProtocolError, UnsupportedOpError
from ptrtensor.wire.limits import NAMESPACES

REFUSED: Final = frozenset({"aten::from_file"})
"""It would read the worker's files."""


HIDDEN_WRITES: Final = {
    **dict.fromkeys(
        (
            "aten::native_batch_norm",
            "aten::cudnn_batch_norm",
            "aten::miopen_batch_norm",
            "aten::batch_norm_update_stats",
            "aten::batch_norm_gather_stats",
            "aten::batch_norm_gather_stats_with_counts",
        ),
        frozenset({"running_mean", "running_var"}),
    ),
    "aten::mkldnn_rnn_layer_backward": frozenset({"workspace"}),
}
"""Arguments that these operations write to, though their schemas do not say so. Found by holding the arguments of every
operation of torch's databases against what they were before.
"""


@dataclass(frozen=True)
class Operation:
    """A kernel, and what its schema says: the arguments in order, and for each return whether it is a new result (else
    the argument that was written to) and whether it is a list.
    """

    kernel: Callable[..., Any]
    names: tuple[str, ...] = ()
    written: frozenset[str] = frozenset()
    hidden_writes: frozenset[str] = frozenset()
    stores: tuple[bool, ...] = ()
    lists: tuple[bool, ...] = ()
    makes_views: bool = False


@lru_cache(maxsize=4096)
def operation(name: str) -> Operation:
    """The operation of that name; the schema is read once.

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
    arguments, returns = op_arguments(op), op_returns(op)
    return Operation(
        kernel=native_kernel(op),
        names=tuple(argument.name for argument in arguments),
        written=frozenset(argument.name for argument in arguments if writes(argument)),
        hidden_writes=HIDDEN_WRITES.get(name.partition(".")[0], frozenset()),
        stores=tuple(not writes(result) for result in returns),
        lists=tuple(type_name(result).startswith("List[") for result in returns),
        makes_views=any(result.alias_info is not None and not writes(result) for result in returns),
    )
