"""Calls as JSON: what a finding's arguments were, to be made again."""

import json
from typing import Any

import torch
from calls import Call
from torch import Tensor

from ptrtensor._torch.names import DTYPES

MEMORY_FORMATS = {str(value): value for value in (torch.contiguous_format, torch.preserve_format, torch.channels_last)}


def written(value: Any) -> Any:
    match value:
        case Tensor():
            return {
                "tensor": str(value.dtype).removeprefix("torch."),
                "shape": list(value.shape),
                "stride": list(value.stride()),
                "values": values_of(value),
            }
        case complex():
            return {"complex": [value.real, value.imag]}
        case torch.dtype() | torch.layout() | torch.memory_format() | torch.device():
            return {type(value).__name__: str(value)}
        case list():
            return [written(item) for item in value]
        case bool() | int() | float() | str() | None:
            return value
        case _:
            return {"other": str(value)}


def values_of(tensor: Tensor) -> Any:
    """One number if all are equal."""
    if tensor.dtype.is_complex:
        tensor = tensor.real
    values = tensor.reshape(-1).tolist()
    if len(set(map(repr, values))) == 1:
        return values[0]
    return values


def read(value: Any) -> Any:
    match value:
        case {"tensor": dtype, "shape": shape, "stride": stride, "values": values}:
            tensor = torch.empty_strided(shape, stride, dtype=DTYPES[dtype])
            if isinstance(values, list):
                tensor.copy_(torch.tensor(values, dtype=DTYPES[dtype]).reshape(shape))
            elif tensor.numel():
                tensor.fill_(values)
            return tensor
        case {"complex": [real, imaginary]}:
            return complex(real, imaginary)
        case {"dtype": name} | {"layout": name}:
            return getattr(torch, name.removeprefix("torch."))
        case {"memory_format": name}:
            return MEMORY_FORMATS[name]
        case {"device": name}:
            return torch.device(name)
        case list():
            return [read(item) for item in value]
        case _:
            return value


def to_text(call: Call) -> str:
    return json.dumps({"op": call.op, "arguments": {name: written(v) for name, v in call.arguments.items()}})


def from_text(text: str) -> Call:
    found = json.loads(text)
    return Call(found["op"], {name: read(value) for name, value in found["arguments"].items()})
