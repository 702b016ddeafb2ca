"""Checks that are peculiar to a few operations; see checks.py for the others."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from ptrtensor._torch.memory import is_dense, offset_of
from ptrtensor.worker.checks import Check, Given, Shape, optional, per_channel, shaped, tensor, within

MOST_REPEATS: Final = 2**48
"""Elements: far more than there is memory for, and few enough to be added up."""

FACTORS: Final = ("scales_d", "scales_h", "scales_w")
"""Of the last dimensions, of which there may be fewer."""


def ctc(given: Given) -> None:
    """The labels that are used stand for classes, and the lengths for labels and steps that there are."""
    scores, targets = tensor(given, "log_probs"), tensor(given, "targets")
    if scores.dim() != 3 or targets.dim() not in (1, 2):
        raise ValueError("log_probs must have 3 dimensions, targets 1 or 2")
    steps, samples, classes = scores.shape
    inputs, labels = integers(given, "input_lengths"), integers(given, "target_lengths")
    if len(inputs) != samples or len(labels) != samples:
        raise ValueError(f"input_lengths and target_lengths must have {samples} elements")
    if any(not 0 <= length <= steps for length in inputs):
        raise ValueError(f"input_lengths must be from 0 to {steps}")
    room = targets.shape[1] if targets.dim() == 2 else targets.numel()
    if any(not 0 <= length <= room for length in labels):
        raise ValueError(f"target_lengths must be from 0 to {room}")
    if targets.dim() == 1 and sum(labels) > room:
        raise ValueError(f"target_lengths must add up to at most {room}")
    if targets.dim() == 2 and targets.shape[0] != samples:
        raise ValueError(f"targets must have {samples} rows")
    used = targets if targets.dim() == 1 else padding_removed(targets, labels)
    within("targets", lambda given: classes)({"targets": used})
    if not 0 <= given["blank"] < classes:
        raise ValueError(f"blank must be from 0 to below {classes}")


def integers(given: Given, name: str) -> list[int]:
    value = given[name]
    return [int(item) for item in value.reshape(-1).tolist()] if isinstance(value, Tensor) else list(value)


def padding_removed(targets: Tensor, lengths: list[int]) -> Tensor:
    """Behind its length a row may hold anything."""
    parts = [row[:length] for row, length in zip(targets, lengths, strict=True)]
    return torch.cat(parts) if parts else targets.reshape(-1)


def ctc_backward(given: Given) -> None:
    """What the forward pass left."""
    steps, samples, _ = tensor(given, "log_probs").shape
    paths = 2 * max(integers(given, "target_lengths"), default=0) + 1
    expected: dict[str, Sequence[int]] = {
        "grad": [samples],
        "neg_log_likelihood": [samples],
        "log_alpha": [samples, steps, paths],
    }
    for name, shape in expected.items():
        shaped(name, constantly(shape))(given)
        if tensor(given, name).dtype != tensor(given, "log_probs").dtype:
            raise ValueError(f"{name} must be of the dtype of log_probs")


def constantly(shape: Sequence[int]) -> Shape:
    return lambda given: shape


def labels(given: Given) -> None:
    """Each label stands for a class, or is the one to ignore."""
    scores, targets = tensor(given, "self"), tensor(given, "target")
    used = targets[targets != given["ignore_index"]]
    classes = scores.shape[min(1, scores.dim() - 1)] if scores.dim() else 0
    within("target", lambda given: classes)({"target": used})


def scaled(given: Given) -> None:
    """A factor, where there is one, leads from one size to the other."""
    size = given["input_size"] if "input_size" in given else tensor(given, "self").shape
    plane = len(given["output_size"] or ())
    if not 0 < plane <= len(FACTORS) or len(size) < plane:
        raise ValueError("output_size must have one, two or three sizes, and no more than the input")
    names = ("scales",) if "scales" in given else FACTORS[-plane:]
    for name, before, after in zip(names, size[-plane:], given["output_size"], strict=True):
        factor = given.get(name)
        if factor is not None and not (math.isfinite(factor) and abs(before * factor - after) < 1 + 1e-6):
            raise ValueError(f"{name} is {factor}, which does not lead from {before} to {after}")


def truncated(given: Given) -> None:
    """The least integer divided by -1 is none of its kind, and the processor stops the process at it."""
    dividend, divisor = tensor(given, "self"), given["other"]
    if given.get("rounding_mode") != "trunc":
        return
    kind = torch.result_type(dividend, divisor)
    if kind in (torch.int32, torch.int64):  # as the kernel sees them: a number may become another in this dtype
        least = dividend.to(kind) == torch.iinfo(kind).min
        if bool(least.any()) and bool((least & (torch.as_tensor(divisor).to(kind) == -1)).any()):
            raise ValueError(f"{torch.iinfo(kind).min} divided by -1 is more than the most that {kind} can hold")


def repeated(given: Given) -> None:
    """The kernel adds up how often each is repeated, and writes as often."""
    repeats = tensor(given, "repeats")
    if repeats.numel() and (int(repeats.min()) < 0 or float(repeats.double().sum()) > MOST_REPEATS):
        raise ValueError(f"repeats must not be negative, and {MOST_REPEATS} together at most")


def spectrum(given: Given) -> None:
    """Each dimension that is transformed is one of the tensor's, and is named once."""
    dimensions, places = tensor(given, "self").dim(), given["dim"]
    if any(not 0 <= place < dimensions for place in places) or len({*places}) != len(places):
        raise ValueError(f"dim must be different ones from 0 to below {dimensions}, not {list(places)}")


def as_many(one: str, other: str) -> Check:
    """Two lists of tensors that the kernel goes through together."""

    def check(given: Given) -> None:
        if len(given[one]) != len(given[other]):
            raise ValueError(f"{one} has {len(given[one])} tensors, {other} {len(given[other])}")

    return check


def bags_in(rows: int | None) -> Check:
    """Offsets make at most so many bags, and some where there are indices. A last one that is the end makes none."""

    def check(given: Given) -> None:
        offsets, indices = tensor(given, "offsets"), tensor(given, "indices")
        bags = offsets.numel()
        if indices.numel() and not bags:
            raise ValueError("offsets must not be empty")
        if rows is not None and bags > rows and (bags > rows + 1 or int(offsets[-1]) != indices.numel()):
            raise ValueError(f"offsets make more than {rows} bags")

    return check


def bag_sizes(given: Given) -> None:
    """What the forward pass of `_embedding_bag` left."""
    rows, columns = tensor(given, "grad").shape
    bags, indices = tensor(given, "offset2bag"), tensor(given, "indices")
    if bags.numel() and bags.numel() != indices.numel():
        raise ValueError("offset2bag must have as many elements as indices")
    if not bags.numel():
        bags_in(rows)(given)
    within("offset2bag", lambda given: rows)(given)
    sizes, maxima = optional(given, "bag_size"), optional(given, "maximum_indices")
    if sizes is not None and sizes.numel() != rows and (sizes.numel() or given["mode"] == 1):
        raise ValueError(f"bag_size must have {rows} elements")
    if maxima is not None and given["mode"] == 2:
        if maxima.shape != (rows, columns):
            raise ValueError(f"maximum_indices must be of shape {[rows, columns]}")
        within("maximum_indices", lambda given: given["num_weights"], least=-1)(given)


def alike_lists(given: Given) -> None:
    """A fused optimizer goes through the memory of several lists at once."""
    parameters = given["self"]
    for name, values in given.items():
        if not isinstance(values, list | tuple):
            if isinstance(values, Tensor) and (values.numel() != 1 or values.dtype is not torch.float32):
                raise ValueError(f"{name} must be a single number")
            continue
        if values and len(values) != len(parameters):
            raise ValueError(f"{name} has {len(values)} tensors for {len(parameters)} parameters")
        for value, parameter in zip(values, parameters, strict=False):
            if name == "state_steps":
                if value.numel() != 1:
                    raise ValueError("each of state_steps must be a single number")
            elif value.shape != parameter.shape or value.dtype != parameter.dtype or not is_dense(value):
                raise ValueError(f"each of {name} must be like its parameter, and without gaps")


def attention(given: Given) -> None:
    query, key, value = (tensor(given, name) for name in ("query", "key", "value"))
    if not query.dim() == key.dim() == value.dim() == 4:
        raise ValueError("query, key and value must have 4 dimensions")
    batch, heads, length, width = query.shape
    groups, others = key.shape[1:3]
    fits = key.shape == value.shape == (batch, groups, others, width)
    if not fits or (heads and (not groups or heads % groups)):  # several heads may share one of the keys
        raise ValueError("query, key and value must go together")
    if not query.dtype == key.dtype == value.dtype:
        raise ValueError("query, key and value must be of one dtype")
    if any(part.stride(3) != 1 and width > 1 for part in (query, key, value)):
        raise ValueError("the last dimension of query, key and value must be contiguous")
    mask = optional(given, "attn_mask")
    if mask is not None:
        whole = (batch, heads, length, others)
        sizes = zip(reversed(mask.shape), reversed(whole), strict=False)
        if mask.dim() not in (2, 4) or any(size not in (1, full) for size, full in sizes):
            raise ValueError(f"attn_mask must fit {list(whole)}")


def segments(given: Given) -> None:
    """Lengths that add up, or offsets that do not fall, along one dimension."""
    data = tensor(given, "data")
    axis = given["axis"]
    if not 0 <= axis < data.dim():
        raise ValueError(f"axis must be from 0 to below {data.dim()}")
    if given.get("indices") is not None:
        raise ValueError("indices are not supported")
    lengths, offsets = optional(given, "lengths"), optional(given, "offsets")
    parts = offsets if lengths is None else lengths
    if parts is None or parts.dim() != axis + 1 or parts.shape[:-1] != data.shape[:axis]:
        raise ValueError("lengths or offsets must have the dimensions of data up to axis")
    if parts.dtype not in (torch.int32, torch.int64):
        raise ValueError("lengths and offsets must be integers")
    count = parts.shape[-1] - (lengths is None)
    if count < 0:
        raise ValueError("offsets must not be empty")
    steps = parts.diff() if lengths is None else parts
    if steps.numel() and int(steps.min()) < 0:
        raise ValueError("lengths must not be negative, nor offsets fall")
    if parts.numel():
        first = parts[..., 0].min() if lengths is None else 0
        last = parts[..., -1].max() if lengths is None else parts.sum(-1).max()
        if int(first) < 0 or int(last) > data.shape[axis] or bool((parts > data.shape[axis]).any()):
            raise ValueError(f"the segments must lie within {data.shape[axis]} elements")
    output = optional(given, "output")
    if output is not None and output.shape != (*data.shape[:axis], count, *data.shape[axis + 1 :]):
        raise ValueError("output must have one element for each segment")


def indices_within(given: Given) -> None:
    """The kernel takes these as they are, where the mask is set and elsewhere."""
    whole, indices = tensor(given, "self"), given["indices"]
    if len(indices) > whole.dim() or not whole.numel():
        raise ValueError(f"there are {len(indices)} indices for {list(whole.shape)}")


def weight_norm(whole: str, *parts: str) -> Check:
    """One number for each slice in the first dimension, or in the last."""

    def check(given: Given) -> None:
        value, dimension = tensor(given, whole), given["dim"]
        if value.dim() == 0 or dimension not in (0, value.dim() - 1) or not value.numel():
            raise ValueError(f"dim must be the first or the last of {whole}")
        shape = [size if place == dimension else 1 for place, size in enumerate(value.shape)]
        for name in parts:
            shaped(name, constantly(shape))(given)
        for name in (whole, *parts):
            if not tensor(given, name).is_contiguous():
                raise ValueError(f"{name} must be contiguous")

    return check


def pivots_of_blocks(given: Given) -> None:
    """Rows from 1 on; a negative one belongs to a block of two, both of which say the same."""
    factors, pivots = tensor(given, "LD"), tensor(given, "pivots")
    size = factors.shape[-1] if factors.dim() > 1 else 0
    if pivots.shape != factors.shape[:-1]:
        raise ValueError("pivots must be one for each row of LD")
    batch, right = factors.shape[:-2], tensor(given, "B").shape[:-2]
    if torch.broadcast_shapes(batch, right) != batch:
        raise ValueError("B must not have more batches than LD: the kernel would need more pivots")
    within("pivots", lambda given: size + 1, least=-size)(given)
    for row in pivots.reshape(-1, size).tolist() if pivots.numel() else []:
        place = 0
        while place < size:
            if row[place] == 0 or (row[place] < 0 and (place + 1 == size or row[place + 1] >= 0)):
                raise ValueError("pivots are not those of a factorization")
            place += 1 if row[place] > 0 else 2


def statistics(given: Given) -> None:
    """Without training, a batch norm takes the running statistics; a backward pass of one that trained, those saved."""
    trains = next((given[name] for name in ("training", "train", "update") if name in given), True)
    given_back = ("save_mean", "save_invstd", "save_var") if "grad_out" in given else ()
    saved = [name for name in given_back if name in given]
    names = saved if trains else ["running_mean", "running_var"]
    for name in names:
        tensor(given, name)
    per_channel("input", *names)(given)


def inside_storage(given: Given) -> None:
    """Torch counts in 64 bits here, and wraps."""
    base = tensor(given, "self")
    offset = given.get("storage_offset")
    check_extent(base, given["size"], given["stride"], offset_of(base) if offset is None else offset)


def check_extent(base: Tensor, shape: Sequence[int], stride: Sequence[int], offset: int) -> None:
    """:raises ValueError: such a view does not lie within the memory of `base`."""
    if len(shape) != len(stride) or min(shape, default=0) < 0 or min(stride, default=0) < 0 or offset < 0:
        raise ValueError(f"no tensor has the shape {list(shape)} and the strides {list(stride)} at {offset}")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and (last + 1) * base.itemsize > base.untyped_storage().nbytes():
        raise ValueError(f"the view of shape {list(shape)} and strides {list(stride)} at {offset} lies not within")
