"""Which operations a worker runs: torch's own, by name, less those that reach beyond tensors [P5.5]."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from ptrtensor._torch.operations import has_tag, native_kernel, op_arguments, op_returns, resolve_op, type_name, writes
from ptrtensor.errors import ProtocolError, UnsupportedOpError
from ptrtensor.wire.limits import NAMESPACES
from ptrtensor.worker.forms import guarded
from ptrtensor.worker.surface import refusal

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


HIDDEN_SHARING: Final = frozenset({"aten::set_", "aten::set", "aten::set_data", "aten::_cudnn_rnn_flatten_weight"})
"""Operations that make their arguments share memory, though their schemas do not say so."""


IN_PLACE_OF: Final = {"aten::_efficientzerotensor": "aten::zeros"}
"""Operations that another one stands for: zeros without memory can be resized, and then are read where nothing is."""


@dataclass(frozen=True)
class Operation:
    """A kernel, and what its schema says: the arguments in order, and for each return whether it is a new result (else
    the argument that was written to) and whether it is a list.
    """

    kernel: Callable[..., Any]
    names: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    written: frozenset[str] = frozenset()
    hidden_writes: frozenset[str] = frozenset()
    stores: tuple[bool, ...] = ()
    lists: tuple[bool, ...] = ()
    makes_views: bool = False
    shares: bool = False
    """Whether results, or what is written to, may share memory with arguments."""
    draws: bool = False
    """Whether it draws random numbers."""


@lru_cache(maxsize=4096)
def operation(name: str) -> Operation:
    """The operation of that name; the schema is read once.

    :raises ProtocolError: it is not one of torch's own.
    :raises UnsupportedOpError: the operation is refused, or this worker's torch has none of that name.
    """
    if name.partition("::")[0] not in NAMESPACES:
        raise ProtocolError(f"only torch's own operations run at a worker, not {name[:80]!r}")
    op = resolve_op(IN_PLACE_OF.get(name, name))
    if op is None:
        raise UnsupportedOpError(f"this worker's torch has no operation {name[:80]!r}: the two sides' torch differ")
    reason = refusal(name, op)
    if reason is not None:
        raise UnsupportedOpError(f"{name} is not run for a client: {reason}")
    arguments, returns = op_arguments(op), op_returns(op)
    makes_views = any(result.alias_info is not None and not writes(result) for result in returns)
    return Operation(
        kernel=guarded(op, native_kernel(op)),
        names=tuple(argument.name for argument in arguments),
        kinds={argument.name: str(argument.real_type) for argument in arguments},
        written=frozenset(argument.name for argument in arguments if writes(argument)),
        hidden_writes=HIDDEN_WRITES.get(name.partition(".")[0], frozenset()),
        stores=tuple(not writes(result) for result in returns),
        lists=tuple(type_name(result).startswith("List[") for result in returns),
        makes_views=makes_views,
        shares=makes_views or name.partition(".")[0] in HIDDEN_SHARING,
        draws=has_tag(op, "nondeterministic_seeded"),
    )


def drawing(name: str) -> Operation:
    """The operation, or its overload that takes a generator where it has one: those that do not draw from the one of
    the process, which in-process workers share with their caller's other threads.
    """
    base, _, overload = name.partition(".")
    found = operation(name)
    for candidate in (f"{overload}_generator".removeprefix("_"), overload.replace("_dtype", "_generator_dtype")):
        if "generator" not in found.names and resolve_op(f"{base}.{candidate}") is not None:
            other = operation(f"{base}.{candidate}")
            if [each for each in other.names if each != "generator"] == list(found.names):
                return other
    return found
