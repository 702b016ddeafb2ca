"""Views need no command: the result is a stretch of the same tensor at the worker."""

import torch
from torch import Tensor
from torch._ops import OpOverload

from ptrtensor._torch.memory import meta_of, offset_of
from ptrtensor._torch.names import DTYPES
from ptrtensor._torch.operations import resolve_op
from ptrtensor._torch.state import isolated, view_mode
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.cache import Extent, Key
from ptrtensor.tensor.dispatch import run
from ptrtensor.tensor.operation import RELATIVE_VIEWS, UNDECLARED_VIEWS, Args, Kwargs, Operation, operations
from ptrtensor.tensor.rules import closed_form
from ptrtensor.tensor.signature import check_usable
from ptrtensor.tensor.view import View
from ptrtensor.wire.metadata import TensorMeta


def view(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """A pointer with a geometry of its own, and the reference of its base."""
    operation, base = operations[op], args[0]
    assert isinstance(base, Pointer)
    worker, reference, meta = base._worker, base._reference, base._meta
    if reference.spent is not None:
        check_usable(base)
    if meta.conj or meta.neg:
        return run(operation, args, kwargs, wrap)
    worker.client.check()
    key: Key = (operation.number, meta)
    if len(args) > 1:
        key += tuple([tuple(value) if type(value) is list else value for value in args[1:]])
    if kwargs:
        key += tuple(kwargs.items())
    extents = worker.cache.view(key)
    if extents is None:
        worker.cache.miss(operation.name)
        extents = extents_of(operation, args, kwargs)
        worker.cache.add_view(key, extents)
    reference.is_settled = False
    if isinstance(reference, View):
        root, before, origin = reference.base, reference.offset, reference.origin
    else:
        root, before, origin = reference, 0, meta
    if operation.is_view:
        base._viewed = True
    begin = offset_of(base)
    with view_mode(base if operation.is_view else None):
        if operation.returns_one:
            shown, offset = extents[0]
            return wrap(worker, View(worker, root, before + offset, shown, origin), shown, begin + offset)
        return [
            wrap(worker, View(worker, root, before + offset, shown, origin), shown, begin + offset)
            for shown, offset in extents
        ]


def extents_of(operation: Operation, args: Args, kwargs: Kwargs) -> list[Extent]:
    """Where the views lie behind their base's beginning: by a rule, else by torch, which has its own errors for it."""
    known = closed_form(operation, args, kwargs)
    if known is not None:
        return known
    base, *rest = args
    assert isinstance(base, Pointer)
    meta = base._meta
    made = isolated(_on_meta, operation, meta, rest, kwargs)
    return [Extent(meta_of(view), offset_of(view)) for view in made]


def _on_meta(operation: Operation, meta: TensorMeta, rest: list[object], kwargs: Kwargs) -> list[Tensor]:
    stand_in = torch.empty_strided(meta.shape, meta.stride, dtype=DTYPES[meta.dtype], device="meta")
    made = operation.op(stand_in, *rest, **kwargs)
    if isinstance(made, Tensor):
        return [made]
    assert isinstance(made, list | tuple)
    return [*made]


for _name in RELATIVE_VIEWS | UNDECLARED_VIEWS:
    _op = resolve_op(_name)
    assert _op is not None
    operations[_op].handler = view
