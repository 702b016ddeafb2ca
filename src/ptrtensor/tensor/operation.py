"""What an operation's schema says, read once."""

import enum
from collections.abc import Callable
from itertools import count
from typing import Final

from torch._ops import OpOverload

from ptrtensor._torch.operations import (
    aliases,
    decomposes,
    has_tag,
    op_arguments,
    op_name,
    op_returns,
    packet_name,
    type_name,
    writes,
)
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.tensor.base import Wrap
from ptrtensor.wire.limits import NAMESPACES

LOCAL_ARGUMENTS: Final = {
    "aten::index": ("indices",),
    "aten::index_put": ("indices",),
    "aten::index_put_": ("indices",),
    "aten::_index_put_impl_": ("indices",),
    "aten::_unsafe_index": ("indices",),
    "aten::_unsafe_index_put": ("indices",),
    "aten::_pack_padded_sequence": ("lengths",),
    "aten::_pack_padded_sequence_backward": ("batch_sizes",),
}
"""Arguments that may be tensors in main memory on any device, as on CUDA."""

SHAPED_BY_CONTENT: Final = frozenset({"aten::_pack_padded_sequence", "aten::linalg_lu_solve"})
"""Operations of which only the worker can know what the result is like, and cannot be tried on zeros here."""


RELATIVE_VIEWS: Final = frozenset(
    {
        "aten::_reshape_alias",
        "aten::alias",
        "aten::diagonal",
        "aten::expand",
        "aten::permute",
        "aten::select.int",
        "aten::slice.Tensor",
        "aten::split.Tensor",
        "aten::split_with_sizes",
        "aten::squeeze",
        "aten::squeeze.dim",
        "aten::squeeze.dims",
        "aten::t",
        "aten::transpose.int",
        "aten::unbind.int",
        "aten::unfold",
        "aten::unsqueeze",
        "aten::view",
    }
)
"""Views whose offset is so many elements behind their base's, wherever that begins in its storage."""

UNDECLARED_VIEWS: Final = frozenset(
    {"aten::_unsafe_view", "aten::unsafe_split.Tensor", "aten::unsafe_split_with_sizes"}
)
"""Operations whose results share memory with their argument, though their schemas do not say so."""

UNLIKE_FAKES: Final = frozenset(
    {
        "aten::_embedding_bag",
        "aten::_embedding_bag_forward_only",
        "aten::max_unpool2d",
        "aten::max_unpool3d",
        "aten::multilabel_margin_loss_forward",
    }
)
"""Operations whose CPU kernels give other shapes or strides than torch's rule for fakes says."""

UNLIKE_FAKES_WHEN_MIXED: Final = frozenset(
    {
        "aten::mse_loss_backward",
        "aten::smooth_l1_loss_backward",
        "aten::soft_margin_loss",
    }
)
"""The same on every device, where several floating dtypes are given: torch's rule for fakes promotes them."""


Args = tuple[object, ...]
Kwargs = dict[str, object]

Handler = Callable[[OpOverload[..., object], Args, Kwargs, Wrap], object]
"""What an operation does that does not go the general way; the modules of `handlers` enter theirs."""


class Kind(enum.Enum):
    """What one return of an operation is."""

    FRESH = enum.auto()
    FRESH_LIST = enum.auto()
    WRITTEN = enum.auto()
    SCALAR = enum.auto()


class Operation:
    """One aten operation, seen from its schema."""

    def __init__(self, op: OpOverload[..., object], number: int) -> None:
        if op.namespace not in NAMESPACES:
            raise UnsupportedOpError(
                f"{op} is not one of torch's own operations, and a worker does not have it: write it as a function of "
                "torch operations, or fetch its arguments first"
            )
        arguments = op_arguments(op)
        self.op = op
        self.number = number
        self.name = op_name(op)
        self.packet = packet = packet_name(op)
        self.draws = has_tag(op, "nondeterministic_seeded")
        self.local_arguments = LOCAL_ARGUMENTS.get(packet, ())
        self.is_unlike_fakes = packet in UNLIKE_FAKES
        self.is_unlike_fakes_when_mixed = packet in UNLIKE_FAKES_WHEN_MIXED
        self.shaped_by_content = packet in SHAPED_BY_CONTENT
        # Their results do not depend on the value of a number, only on its type (D6).
        self.numbers_are_fields = has_tag(op, "pointwise") or packet.startswith("aten::_foreach_")
        self.kinds: list[Kind] = []
        self.written_arguments: list[int | str] = []
        """For each return: the argument that it is, where it was written to; else -1."""
        for result in op_returns(op):
            argument: int | str = -1
            if not type_name(result).startswith(("Tensor", "List[Tensor", "Optional[Tensor")):
                kind = Kind.SCALAR
            elif writes(result):
                kind = Kind.WRITTEN
                argument = next(
                    given.name if given.kwarg_only else position
                    for position, given in enumerate(arguments)
                    if aliases(given) & aliases(result)
                )
            else:
                kind = Kind.FRESH_LIST if type_name(result).startswith("List[") else Kind.FRESH
            self.kinds.append(kind)
            self.written_arguments.append(argument)
        self.is_view = any(result.alias_info is not None and not writes(result) for result in op_returns(op))
        self.shares_memory = self.is_view or self.name in UNDECLARED_VIEWS
        self.makes_empty = packet in ("aten::empty", "aten::empty_strided")
        self.changes_metadata = has_tag(op, "inplace_view")
        names = {given.name for given in arguments}
        self.is_relative = self.is_view and self.name in RELATIVE_VIEWS
        absolute_view = self.is_view and not self.is_relative
        self.offset_matters = absolute_view or self.changes_metadata or "storage_offset" in names
        self.written_positions = [position for position, given in enumerate(arguments) if writes(given)]
        self.written_names = [given.name for given in arguments if writes(given)]
        self.writes = bool(self.written_positions or self.written_names)
        self.is_in_place = self.written_arguments == self.written_positions == [0] and len(self.written_names) == 1
        """Whether it writes to its first argument and to no other, and returns that."""
        self.decomposes = decomposes(op)
        self.writes_lists = any(writes(given) and type_name(given).startswith("List[") for given in arguments)
        self.argument_names = [given.name for given in arguments]
        self.returns_scalar = Kind.SCALAR in self.kinds
        self.returns_one = self.kinds == [Kind.FRESH]
        self.only_checks = not self.kinds and not self.written_names
        """It returns and writes nothing, so no value hangs on it: whether it failed must be asked."""
        self.handler: Handler | None = None


class Operations:
    """The operations met so far. By identity: an `OpOverload` computes its hash in Python."""

    def __init__(self) -> None:
        self._known: dict[int, Operation] = {}
        self._numbers = count()

    def __getitem__(self, op: OpOverload[..., object]) -> Operation:
        operation = self._known.get(id(op))
        if operation is None:
            operation = self._known[id(op)] = Operation(op, next(self._numbers))
        return operation


operations: Final = Operations()
