"""Arguments of users, checked before anything is done: the worker would only see that the protocol is broken."""

import operator
import reprlib
from collections.abc import Iterable, Sequence
from typing import Final, SupportsIndex

import torch
from torch import Tensor

from ptrtensor._torch.randomness import set_state
from ptrtensor.errors import PtrTensorError

SEEDS: Final = range(-(2**63), 2**64)
"""What torch's generators take."""


def shown(value: object) -> str:
    """What was given, in a few words."""
    return f"{' '.join(reprlib.repr(value).split())} ({type(value).__name__})"


def checked_texts(texts: Sequence[object], call: str) -> tuple[str, ...]:
    """The texts as they can travel.

    :raises PtrTensorError: one is no str, or has half a surrogate pair, which UTF-8 does not have.
    """
    checked = []
    for text in texts:
        if not isinstance(text, str):
            raise PtrTensorError(f"{call} takes texts, not {shown(text)}: pass a str")
        try:
            checked.append(text.encode().decode())  # a plain str also of a subclass, which cannot travel
        except UnicodeEncodeError as error:
            raise PtrTensorError(f"{call} takes texts that UTF-8 has: {error}") from error
    return tuple(checked)


def check_publishable(value: object) -> None:
    """:raises PtrTensorError: it is no tensor, or has no values."""
    if not isinstance(value, Tensor):
        raise PtrTensorError(f"publish() takes a tensor, for instance torch.as_tensor(...), not {shown(value)}")
    if value.is_meta:
        raise PtrTensorError(f"publish() takes a tensor with values, and {shown(value)} has none")


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags of what is published, as they can travel.

    :raises PtrTensorError: they are a single text, or one is none.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise PtrTensorError(f"publish() takes a list of tags, for instance ['#patients'], not {shown(tags)}")
    return checked_texts(tuple(tags), "publish()")


def checked_seed(seed: SupportsIndex) -> int:
    """The seed as it can travel.

    :raises PtrTensorError: torch does not take it.
    """
    try:
        number = None if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = None
    if number is None or number not in SEEDS:
        raise PtrTensorError(
            f"manual_seed() takes None or an integer from {SEEDS.start} to {SEEDS.stop - 1}, not {shown(seed)}"
        )
    return number


def check_state(state: Tensor, compute_device: torch.device) -> None:
    """Whether a generator on that device can have this state.

    :raises PtrTensorError: none can.
    """
    try:
        if state.device.type != "cpu" or state.dtype is not torch.uint8:
            raise TypeError(f"it is {state.dtype} on {state.device}, not bytes in this process")
        if compute_device.type == "cpu":  # for another device only the worker can tell
            set_state(torch.Generator("cpu"), state.contiguous())
    except (TypeError, ValueError, RuntimeError) as error:
        raise PtrTensorError(
            f"this cannot be the state of a generator ({error}): pass what torch.lazy.get_rng_state() returned"
        ) from error
