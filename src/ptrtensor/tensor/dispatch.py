"""Dispatch: one aten operation on pointers becomes one command at their worker.

The pipeline: read the arguments (`signature`), look up or infer what will come (`infer`), post the command
(`client`), wrap the results. A few operations have a handler instead (`handlers`), each with its reason.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch._ops import OpOverload

from ptrtensor._torch.memory import offset_of
from ptrtensor._torch.operations import decompose
from ptrtensor._torch.state import is_tracing, view_mode
from ptrtensor._torch.subclass import bump_versions, set_metadata
from ptrtensor.client.reference import Reference
from ptrtensor.errors import ProtocolError, PtrTensorError, UnsupportedOpError
from ptrtensor.tensor.base import Pointer, Wrap
from ptrtensor.tensor.cache import Extent, Prediction
from ptrtensor.tensor.operation import Args, Kind, Kwargs, Operation, operations
from ptrtensor.tensor.prediction import predict
from ptrtensor.tensor.reshaping import check_writes, note_reshaping
from ptrtensor.tensor.signature import Call
from ptrtensor.tensor.told import check_number, told_extent
from ptrtensor.tensor.worker import Worker, call_sites
from ptrtensor.wire import messages
from ptrtensor.wire.limits import MAX_RESULTS
from ptrtensor.wire.metadata import TensorMeta

ALIAS: Final = torch.ops.aten.alias.default

NO_RESULT: Final = 0
"""The name of a command's first result where it has none; no value has it."""


def dispatch(op: OpOverload[..., object], args: Args, kwargs: Kwargs, wrap: Wrap) -> object:
    """Run one operation on pointers."""
    if is_tracing():
        raise UnsupportedOpError(
            f"{op} on a pointer is being traced (make_fx, torch.func.linearize): the graph would hold its values as "
            "constants. Trace with local tensors and call the result with pointers"
        )
    operation = operations[op]
    if operation.handler is not None:
        return operation.handler(op, args, kwargs, wrap)
    if operation.decomposes:
        return decompose(op, args, kwargs)
    return run(operation, args, kwargs, wrap)


def run(operation: Operation, args: Args, kwargs: Kwargs, wrap: Wrap, worker: Worker | None = None) -> object:
    """The general way. `worker` is given where no argument tells it."""
    call = Call(operation, args, kwargs, worker)
    worker = call.worker
    if worker is None:
        raise PtrTensorError(f"{operation.op} was called with no pointer and no worker's device")
    if worker.has_reshaped_views:
        check_writes(call)
    prediction = predicted(worker, call)
    if operation.is_in_place and prediction.fresh == [] and not prediction.changes:
        target = args[0]
        if isinstance(target, Pointer):
            target._reference.is_settled = False
            post(worker, call, prediction, NO_RESULT)
            return target
    if operation.writes or operation.shares_memory:
        unsettle(call)
    if prediction.fresh is None:
        return ask(worker, call, wrap)
    if prediction.only is not None:
        # Made before the command is posted: interrupted in between, it dies and the worker forgets the name.
        reference = Reference(worker.client, worker.client.reserve())
        meta, offset = prediction.only
        reference.is_settled = can_settle(operation, meta)
        post(worker, call, prediction, reference.name)
        base = call.pointers[0] if operation.is_view else None
        if base is None:
            return wrap(worker, reference, meta, offset)
        base._viewed = True
        with view_mode(base):
            return wrap(worker, reference, meta, offset + offset_of(base) if operation.is_relative else offset)
    for change in prediction.changes:
        pointer = call.pointers[change.place]
        if pointer is not None:
            note_reshaping(pointer, str(operation.op))
    if prediction.changes:
        call = renamed(call, [change.place for change in prediction.changes], wrap)
        prediction = predicted(worker, call)
    fresh = prediction.fresh or []  # never None: only names have changed
    names = len(fresh)
    first = worker.client.reserve(names)
    references = [Reference(worker.client, first + place) for place in range(names)]
    for extent, reference in zip(fresh, references, strict=True):
        reference.is_settled = extent is not None and can_settle(operation, extent.meta)
    post(worker, call, prediction, first)
    if operation.writes_lists:
        written = (call.pointers[place] for place in call.written_places())
        bump_versions(pointer for pointer in written if pointer is not None)
    for change in prediction.changes:
        reshape(call.pointers[change.place], change.extent, wrap)
    base = call.pointers[0] if operation.is_view else None
    if base is not None:
        base._viewed = True
    # Most views have a handler; here come those of conjugated tensors, and the alias of `rename`.
    behind = offset_of(base) if base is not None and operation.is_relative else 0
    with view_mode(base):
        pointers = [
            None if extent is None else wrap(worker, reference, extent.meta, extent.offset + behind)
            for extent, reference in zip(fresh, references, strict=True)
        ]
    return returned(operation, args, kwargs, pointers)


def predicted(worker: Worker, call: Call) -> Prediction:
    """What the operation will return, under these flags."""
    key = (worker.mirror_flags(), *call.key)
    prediction = worker.cache.get(key)
    if prediction is None:
        worker.cache.miss(call.operation.name)
        prediction = predict(worker, call)
        worker.cache.add(key, prediction)
    return prediction


def post(worker: Worker, call: Call, prediction: Prediction, first: int) -> None:
    """Send the command; local values that it needs go first."""
    fields = call.fields
    held = []
    for place, tensor in call.locals:
        reference, _ = worker.put(tensor, host=True)
        held.append(reference)
        fields[place] = reference.name
    if call.operation.draws:
        fields.append(call.seed())
    template = prediction.template
    instruction = template.instruction
    command = template.layout.pack(instruction.number, *fields, first)
    worker.client.post(instruction, command, call_sites.current())


def can_settle(operation: Operation, meta: TensorMeta) -> bool:
    """Numbers, such as a loss, and memory without values yet. Nothing larger: some operations change an argument,
    statistics of a batch norm for instance, and their schemas do not say so.
    """
    return (not meta.shape or operation.makes_empty) and not operation.shares_memory


def unsettle(call: Call) -> None:
    """From now on a command may change these values, by themselves or through what shares their memory."""
    places = call.written_places()
    if call.operation.shares_memory:
        places.append(0)
    for place in places:
        pointer = call.pointers[place]
        if pointer is not None:
            pointer._reference.is_settled = False


def ask(worker: Worker, call: Call, wrap: Wrap) -> object:
    """Run an operation whose result depends on values, and wait to hear what came: one round trip."""
    operation, client = call.operation, worker.client
    written = call.written_places()
    call = renamed(call, written, wrap)
    prediction = predicted(worker, call)
    first = client.reserve(MAX_RESULTS)
    references = [Reference(client, first + place) for place in range(len(operation.kinds))]
    post(worker, call, prediction, first)
    if operation.returns_scalar:
        value, _ = worker.fetch_value(references[0])
        if value.scalar is None:
            raise ProtocolError(f"worker {worker.id} sent no number")
        return value.scalar
    outcome, _ = client.request(lambda number: messages.Describe(number, first), messages.Described)
    check_number(outcome, operation, len(written))
    fresh = [None if extent is None else told_extent(extent) for extent in outcome.fresh]
    changed = [told_extent(extent) for extent in outcome.written]
    references += [Reference(client, first + place) for place in range(len(references), len(fresh))]
    pointers = [
        None if extent is None else wrap(worker, reference, extent.meta, extent.offset)
        for extent, reference in zip(fresh, references, strict=False)
    ]
    for place, became in zip(written, changed, strict=True):
        pointer = call.pointers[place]
        if pointer is not None and pointer._meta is not became.meta:
            note_reshaping(pointer, str(operation.op))
        reshape(pointer, became, wrap)
    return returned(operation, call.args, call.kwargs, pointers)


# --- what an operation does to the pointers it was given


def renamed(call: Call, places: list[int], wrap: Wrap) -> Call:
    """The same call after each of these pointers got a name of its own at the worker.

    A detached alias shares its name here but is a tensor of its own for torch: only the one that the operation was
    called on may change its metadata.
    """
    for place in places:
        pointer = call.pointers[place]
        if pointer is not None:
            rename(pointer, wrap)
    return Call(call.operation, call.args, call.kwargs, call.worker) if places else call


def rename(pointer: Pointer, wrap: Wrap) -> None:
    """Give a pointer a name of its own: from now on nothing else stands for what is done to it."""
    viewed = pointer._viewed
    alias = run(operations[ALIAS], (pointer,), {}, wrap)
    pointer._viewed = viewed  # only its name is wanted
    assert isinstance(alias, Pointer)
    pointer._reference = alias._reference
    tags, description = pointer.__dict__.get("_tags", ()), pointer.__dict__.get("_description", "")
    if tags or description:
        alias._worker.client.send(messages.Annotate(alias._reference.name, tags, description))


def reshape(pointer: Pointer | None, extent: Extent, wrap: Wrap) -> None:
    """Give a pointer the metadata that its tensor has now."""
    if pointer is not None and (pointer._meta is not extent.meta or offset_of(pointer) != extent.offset):
        with view_mode(pointer):
            set_metadata(pointer, wrap(pointer._worker, pointer._reference, extent.meta, extent.offset))
        pointer._meta = extent.meta


def returned(operation: Operation, args: Args, kwargs: Kwargs, pointers: Sequence[Pointer | None]) -> object:
    """What the operation returns in Python: fresh pointers, and the arguments that it wrote to as they are."""
    if operation.returns_one:
        return pointers[0]
    results: list[object] = []
    place = 0
    for kind, argument in zip(operation.kinds, operation.written_arguments, strict=True):
        if kind is Kind.WRITTEN:
            results.append(kwargs[argument] if isinstance(argument, str) else args[argument])
        elif kind is Kind.FRESH_LIST:
            results.append(list(pointers[place:]))
            place = len(pointers)
        else:
            results.append(pointers[place])
            place += 1
    if not results:
        return None
    return results[0] if len(results) == 1 else tuple(results)
