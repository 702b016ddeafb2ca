"""The prediction of a call that was not seen before, and the instruction that makes it so (D6, D8)."""

from struct import Struct

from ptrtensor.errors import UnsupportedOpError
from ptrtensor.tensor.cache import Change, Extent, Prediction, Template
from ptrtensor.tensor.infer import Unpredictable, inferences
from ptrtensor.tensor.rules import closed_form
from ptrtensor.tensor.signature import Call, form
from ptrtensor.tensor.worker import Worker
from ptrtensor.wire.instruction import Instruction, layout
from ptrtensor.wire.limits import MAX_RESULTS
from ptrtensor.wire.metadata import TensorMeta


def predict(worker: Worker, call: Call) -> Prediction:
    """What will come: by a closed form, else inferred, else left to the worker."""
    worker.client.check()  # before any lock: in a forked child another thread may have held it
    operation = call.operation
    fresh: list[Extent | None] | None = None
    changes: list[Change] = []
    known = closed_form(operation, call.args, call.kwargs)
    try:
        if known is not None:
            fresh = [*known]
        else:
            fresh, changes = inferences[worker.compute_device](operation, call.args, call.kwargs)
        if changes and not operation.changes_metadata:
            raise Unpredictable  # an `out` grew: kernels lay it out as they like
    except Unpredictable:
        fresh, changes = None, []  # the worker will be asked
    if len(fresh or ()) > MAX_RESULTS:
        raise UnsupportedOpError(f"{operation.op} has {len(fresh or ())} results, and {MAX_RESULTS} are the most")
    only = fresh[0] if fresh and operation.returns_one and not changes else None
    sharable = known is not None and (operation.returns_one or not known)
    return Prediction(shared(worker, call) if sharable else template(worker, call, fresh), fresh, changes, only)


def template(worker: Worker, call: Call, fresh: list[Extent | None] | None) -> Template:
    """An instruction for calls of this signature; the worker holds its first result against what was inferred."""
    expected = None if fresh is None else tuple(None if extent is None else extent.meta for extent in fresh)
    return Template(*defined(worker, call, expected))


def shared(worker: Worker, call: Call) -> Template:
    """One for all calls of this shape, whatever their sizes: a closed form needs no proof by the worker."""
    cache, shape = worker.cache, call.shape()
    known = cache.shared(shape)
    if known is None:
        known = Template(*defined(worker, call, (None,) if call.operation.returns_one else ()), is_shared=True)
        cache.share(shape, known)
    return known


def defined(worker: Worker, call: Call, expected: tuple[TensorMeta | None, ...] | None) -> tuple[Instruction, Struct]:
    operation = call.operation
    positional, keywords = form(call)
    instruction = Instruction(worker.cache.number(), operation.name, positional, keywords, operation.draws, expected)
    return instruction, layout(instruction)
