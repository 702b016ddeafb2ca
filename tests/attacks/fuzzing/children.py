"""Runs hostile calls in forked children, so that one that crashes is a finding and the next ones go on behind it."""

import ctypes
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import torch
from calls import FORMS, Call, copied
from mutating import Mutation, mutations
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ptrtensor._torch.state import isolated

Kernel = Callable[..., object]

CPU_SECONDS: Final = 2
"""Of one call; what needs longer is a finding."""

STILL_SECONDS: Final = 8.0
"""A child that does nothing for so long is ended."""

ARENA_RESERVE: Final = 4 << 30

ADDRESS_SPACE: Final = 56 << 30

BEYOND, ELSEWHERE, USED_UP, DONE = 77, 76, 75, 0
"""Exit statuses: a result reaches beyond its memory; it is on another device; the guarded memory is used up."""

ENOUGH: Final = 2
"""Findings of one kind of change to one argument, after which the others of it are not tried."""


ENOUGH_OF_ONE: Final = 16
"""Findings of one operation, after which nothing more of it is tried."""


class Finding(NamedTuple):
    op: str
    argument: str
    what: str
    kind: str
    call: Call


class Guard:
    """guard.c, where it was preloaded."""

    def __init__(self) -> None:
        library: Any = ctypes.CDLL(None)
        self.is_ready = hasattr(library, "guard") and bool(library.guard_is_ready())
        self._library = library

    def switch(self, on: bool) -> None:
        if self.is_ready:
            self._library.guard(int(on))

    def is_used_up(self) -> bool:
        if not self.is_ready:
            return False
        self._library.guard_left.restype = ctypes.c_size_t
        return int(self._library.guard_left()) < ARENA_RESERVE


class Counts:
    """What was done, over all children: kept in memory that they share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._fields = struct.Struct("<5Q")

    def write(self, call: int, mutation: int, made: int, succeeded: int, busy: bool) -> None:
        self._fields.pack_into(self._memory, 0, call, mutation, made, succeeded, int(busy))

    def read(self) -> tuple[int, int, int, int, int]:
        found: tuple[int, int, int, int, int] = self._fields.unpack_from(self._memory, 0)
        return found


class Fuzz:
    def __init__(
        self, calls: list[Call], kernel_of: Callable[[str], Kernel], *, as_is_only: bool = False, enough: int = FORMS
    ) -> None:
        self.findings: list[Finding] = []
        self.made = 0
        self.succeeded = 0
        self._calls = calls
        self._kernel_of = kernel_of
        self._as_is_only = as_is_only
        self._enough = enough
        self._guard = Guard()
        self._counts = Counts()
        self._works = mmap.mmap(-1, max(1, len(calls)))
        self._skipped: Counter[tuple[str, str]] = Counter()
        self._working: Counter[str] = Counter()
        self._found: Counter[str] = Counter()

    def run(self) -> Iterator[int]:
        """Yields how many of the calls are done, now and then."""
        call, mutation = 0, 0
        while call < len(self._calls):
            status = self._run_child(call, mutation)
            begun = call, mutation
            call, mutation, self.made, self.succeeded, busy = self._counts.read()
            if status == DONE:
                return
            if not busy and begun == (call, mutation) and mutation:  # it died before it did anything
                call, mutation = call + 1, 0
                continue
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) != USED_UP or os.WIFSIGNALED(status):
                self._note(call, mutation, status, bool(busy))
            mutation += 1
            yield call

    def works(self, call: int) -> bool:
        """Whether it succeeded as it is."""
        return self._works[call] == 1

    def _mutations(self, call: Call) -> Iterator[Mutation]:
        return iter([Mutation("", "as it is", call)]) if self._as_is_only else mutations(call)

    def _note(self, call: int, mutation: int, status: int, busy: bool) -> None:
        hostile = next(m for place, m in enumerate(self._mutations(self._calls[call])) if place == mutation)
        if os.WIFEXITED(status):
            kinds = {BEYOND: "a result beyond its memory", ELSEWHERE: "a result on another device"}
            kind = kinds.get(os.WEXITSTATUS(status), f"exit {os.WEXITSTATUS(status)}")
        else:
            kind = signal.Signals(os.WTERMSIG(status)).name
        if not busy:
            kind += " afterwards"
        self.findings.append(Finding(hostile.call.op, hostile.argument, hostile.what, kind, hostile.call))
        self._skipped[hostile.call.op, hostile.argument] += 1
        self._found[hostile.call.op] += 1

    def _run_child(self, call: int, mutation: int) -> int:
        self._counts.write(call, mutation, self.made, self.succeeded, busy=False)
        child = os.fork()
        if child == 0:
            told = os.dup(sys.stderr.fileno())
            try:
                self._be_child(call, mutation)
            except BaseException:
                os.write(told, traceback.format_exc().encode())
            finally:
                os._exit(99)
        before, since = self._counts.read(), time.monotonic()
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return status
            time.sleep(0.002)
            now = self._counts.read()
            if now[0] > before[0] and now[0] % 50 == 0:
                sys.stderr.write(f"{now[0]} {self._calls[now[0]].op} {now[2]}\n")
            if now != before:
                before, since = now, time.monotonic()
            elif time.monotonic() - since > STILL_SECONDS:
                os.kill(child, signal.SIGKILL)
                since = time.monotonic()

    def _be_child(self, first: int, mutation: int) -> None:
        silence()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        warnings.simplefilter("ignore")
        made, succeeded = self.made, self.succeeded
        for place in range(first, len(self._calls)):
            call = self._calls[place]
            if self._as_is_only and self._working[call.op] >= self._enough:
                continue
            kernel = self._kernel_of(call.op)
            for number, hostile in enumerate(self._mutations(call)):
                if place == first and number < mutation:
                    continue
                if self._skipped[call.op, hostile.argument] >= ENOUGH or self._found[call.op] >= ENOUGH_OF_ONE:
                    continue
                made += 1
                self._counts.write(place, number, made, succeeded, busy=True)
                signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
                success = self._attempt(kernel, hostile.call)
                succeeded += success
                if number == 0:
                    self._works[place] = success
                    self._working[call.op] += success
                signal.setitimer(signal.ITIMER_PROF, 0)
                self._counts.write(place, number, made, succeeded, busy=False)
                if self._guard.is_used_up():
                    os._exit(USED_UP)
        os._exit(DONE)

    def _attempt(self, kernel: Kernel, call: Call) -> bool:
        """Whether it succeeded. All that it allocates is guarded, its arguments too, and freed again."""
        self._guard.switch(True)
        try:
            isolated(call_and_look, kernel, call)
            return True
        except Exception:
            return False
        finally:
            self._guard.switch(False)


def call_and_look(kernel: Kernel, call: Call) -> None:
    arguments = copied(call.arguments, guarded_copy)
    returned = kernel(**arguments)
    for leaf in tree_leaves((returned, arguments)):
        if isinstance(leaf, Tensor) and leaf.layout is torch.strided and not (leaf.is_nested or leaf.is_quantized):
            if leaf.device.type != "cpu":
                os._exit(ELSEWHERE)
            if reaches_beyond(leaf):
                os._exit(BEYOND)
            if not leaf._is_zerotensor():
                leaf.clone()


def guarded_copy(tensor: Tensor) -> Tensor:
    """With the same strides, so that what repeats one element does so still."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = torch.empty(0 if tensor.numel() == 0 else extent, dtype=tensor.dtype)
    copy = memory.as_strided(tensor.shape, tensor.stride())
    if tensor.numel():
        memory.copy_(tensor.as_strided((extent,), (1,)))
    return copy


def reaches_beyond(tensor: Tensor) -> bool:
    if tensor.numel() == 0 or tensor._is_zerotensor():
        return False
    ends = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    first = tensor.storage_offset() + sum(end for end in ends if end < 0)
    last = tensor.storage_offset() + sum(end for end in ends if end > 0)
    return first < 0 or (last + 1) * tensor.itemsize > tensor.untyped_storage().nbytes()


def silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
