"""The calls of reproducers.jsonl, one for each finding: `checked` makes them through a session, where each must end as
an error; `unchecked` makes them without the worker's checks in guarded memory, where each must be a finding still.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from by_hand import At, ByHand, Deviceless, Part
from calls import Call
from children import Fuzz
from literals import from_text
from torch import Tensor

from ptrtensor._torch.names import LAYOUT_NAMES
from ptrtensor._torch.operations import native_kernel, op_arguments, resolve_op
from ptrtensor.wire.instruction import NamedConstant

REPRODUCERS = Path(__file__).with_name("reproducers.jsonl")


def main() -> int:
    calls = [from_text(line) for line in REPRODUCERS.read_text().splitlines()]
    if sys.argv[1] == "checked":
        for call in calls:
            say(call.op, error_of(call))
    elif "GUARD" not in os.environ:
        return again_with_guard()
    else:
        for call in calls:
            fuzz = Fuzz([call], kernel, as_is_only=True)
            list(fuzz.run())
            say(call.op, fuzz.findings[0].kind if fuzz.findings else "")
    return 0


def say(*words: str) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def kernel(op: str) -> Any:
    found = resolve_op(op)
    assert found is not None
    return native_kernel(found)


def again_with_guard() -> int:
    """With guard.c preloaded."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "guard.so"
        subprocess.run(
            ["cc", "-O2", "-fPIC", "-shared", "-o", library, Path(__file__).with_name("guard.c")], check=True
        )
        environment = os.environ | {"GUARD": "after", "LD_PRELOAD": str(library)}
        return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


def error_of(call: Call) -> str:
    """What a session says to it; nothing if it does as it is asked."""
    hand = ByHand()
    op = resolve_op(call.op)
    assert op is not None
    named = {name: sent(hand, value) for name, value in call.arguments.items()}
    positional = []
    for argument in op_arguments(op):
        if argument.kwarg_only or argument.name not in named:
            break
        positional.append(named.pop(argument.name))
    result = hand.run(call.op, *positional, expect=None, **named)
    return hand.store.poisoned[result].failure.error if result in hand.store.poisoned else ""


def sent(hand: ByHand, value: Any) -> Any:
    """The value as an argument of a command; a tensor with its strides."""
    if isinstance(value, list):
        return [sent(hand, item) for item in value]
    if isinstance(value, torch.device):
        return Deviceless()
    if isinstance(value, torch.layout):
        return NamedConstant("layout", LAYOUT_NAMES[value])
    if not isinstance(value, Tensor):
        return value
    if value.is_contiguous():
        return At(hand.put(value))
    extent = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    name = hand.put(value.as_strided((extent,), (1,)))
    return Part(name, 0, tuple(value.shape), value.stride())


if __name__ == "__main__":
    sys.exit(main())
