"""All operations of torch's own with hostile arguments: `python tests/attacks/fuzzing/fuzz.py build/fuzz`.

Well-formed calls are recorded, and made up for operations that no sample reaches; the folder keeps them for the next
run. Then hostile variants of them run in children whose memory is guarded (guard.c).
"""

import argparse
import contextlib
import copyreg
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from calls import FORMS, Call, all_operations, copied
from children import Finding, Fuzz, Guard, Kernel
from generating import borrowed, invented
from literals import written
from recording import recorded
from rich.progress import Progress

from ptrtensor._torch.operations import native_kernel, op_arguments, resolve_op, writes
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.worker.checked_operations import CHECKS
from ptrtensor.worker.forms import misfit
from ptrtensor.worker.operations import operation
from ptrtensor.worker.surface import REFUSED

INVENTED = 50
"""Tries to make a call of an operation that works."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unchecked", action="store_true", help="torch's own kernels, without the worker's checks")
    parser.add_argument("--side", choices=("after", "before"), default="after", help="where the guard is")
    parser.add_argument("--only", help="operations whose names contain this")
    parser.add_argument("--named", action="store_true", help="only those whose arguments are checked")
    parser.add_argument("--begin", default="", help="the first operation")
    parser.add_argument("--end", default="~", help="the first one that is left out")
    parser.add_argument("--shard", default="0/1", help="the first of so many parts: 0/4")
    parser.add_argument("--forms", type=int, default=2, help="well-formed calls of each operation that are varied")
    parser.add_argument("--without-out", action="store_true", help="not those that write to `out=`")
    parser.add_argument("--outs", action="store_true", help="only those that write to `out=`")
    parser.add_argument("--dtype", help="with the floating-point tensors in this dtype")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("GUARD") != options.side:
        return again_with_guard(options.folder, options.side)
    if not Guard().is_ready:
        sys.stderr.write("guard.c is not loaded: crashes are found, silent reads are not\n")
    torch.set_num_threads(1)
    with Progress() as progress:
        calls = well_formed(options.folder, progress)
        part, parts = map(int, options.shard.split("/"))
        names = [name for name in sorted(calls) if options.only is None or options.only in name][part::parts]
        if options.without_out or options.outs:
            names = [name for name in names if writes_out(name) == options.outs]
        if not options.unchecked:
            names = [name for name in names if is_run(name)]
        names = [
            name for name in names if options.begin <= name < options.end and (not options.named or is_named(name))
        ]
        chosen = [shortened(call) for op in names for call in calls[op][: options.forms]]
        if options.dtype:
            chosen = [with_dtype(call, getattr(torch, options.dtype)) for call in chosen]
        for call in chosen:
            if not call.op.startswith("aten::"):  # in Python, which imports what it needs when it is first called
                with contextlib.suppress(Exception):
                    unchecked(call.op)(**copied(call.arguments))
        name = f"{'unchecked' if options.unchecked else 'checked'}-{options.side}-{options.shard.replace('/', '-')}"
        name += ("-named" if options.named else "") + ("-outs" if options.outs else "")
        name += (f"-{options.only}" if options.only else "") + (f"-{options.dtype}" if options.dtype else "")
        file = options.folder / f"{name}.json"
        fuzz = Fuzz(chosen, unchecked if options.unchecked else checked)
        task = progress.add_task("hostile calls", total=len(chosen))
        told = 0
        for done in fuzz.run():
            progress.update(task, completed=done, description=f"{chosen[done].op} calls: {fuzz.made}")
            if done - told > 10:
                told = done
                report(file, fuzz, len(names))
    sys.stdout.write(report(file, fuzz, len(names)))
    return 1 if fuzz.findings and not options.unchecked else 0


def again_with_guard(folder: Path, side: str) -> int:
    """The same program with guard.c preloaded, where there is a compiler for it."""
    library = folder.resolve() / "guard.so"
    source = Path(__file__).with_name("guard.c")
    environment = os.environ | {"GUARD": side, "OMP_NUM_THREADS": "1"}
    if shutil.which("cc") is not None:
        subprocess.run(["cc", "-O2", "-fPIC", "-shared", "-o", library, source], check=True)
        environment["LD_PRELOAD"] = str(library)
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def is_named(op: str) -> bool:
    return op.partition(".")[0].removeprefix("aten::") in CHECKS


def writes_out(op: str) -> bool:
    resolved = resolve_op(op)
    assert resolved is not None
    return any(argument.kwarg_only and writes(argument) for argument in op_arguments(resolved))


def unchecked(op: str) -> Kernel:
    resolved = resolve_op(op)
    assert resolved is not None
    return native_kernel(resolved)


def is_run(op: str) -> bool:
    """Whether a worker runs it at all."""
    try:
        operation(op)
    except UnsupportedOpError:
        return False
    return True


def checked(op: str) -> Kernel:
    """What a worker runs: nothing where it refuses the form of an argument already."""
    found = operation(op)

    def kernel(**arguments: Any) -> object:
        for name, value in arguments.items():
            if misfit(found.kinds[name], value):
                raise UnsupportedOpError(name)
        return found.kernel(**arguments)

    return kernel


def shortened(call: Call) -> Call:
    """Of operations on many tensors: on two."""
    if not call.op.startswith("aten::_foreach_"):
        return call
    return Call(call.op, {name: v[:2] if isinstance(v, list) else v for name, v in call.arguments.items()})


def with_dtype(call: Call, dtype: torch.dtype) -> Call:
    def of(value: object) -> object:
        if isinstance(value, list):
            return [of(item) for item in value]
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype is torch.float32 else value

    return Call(call.op, {name: of(value) for name, value in call.arguments.items()})


class Formats:
    contiguous_format = torch.contiguous_format
    preserve_format = torch.preserve_format
    channels_last = torch.channels_last
    channels_last_3d = torch.channels_last_3d


def by_name(value: torch.memory_format) -> tuple[object, tuple[object, str]]:
    """How a memory format is pickled, which torch cannot."""
    return getattr, (Formats, str(value).removeprefix("torch."))


def well_formed(folder: Path, progress: Progress) -> dict[str, list[Call]]:
    """Calls by operation; of those that none was found for that works, some that do not."""
    copyreg.pickle(torch.memory_format, by_name)  # type: ignore[arg-type]
    file = folder / "calls.pt"
    if file.exists():
        return dict(torch.load(file, weights_only=False))
    task = progress.add_task("samples", total=None)
    calls = recorded(lambda name: progress.update(task, advance=1, description=f"samples: {name}"))
    operations = [op for op in all_operations() if op.partition(".")[0] not in REFUSED]  # they would touch files
    calls = {op: kept for op, kept in calls.items() if op in set(operations)}
    origins = Counter({"recorded": len(calls)})
    missing = [op for op in operations if op not in calls]
    candidates = [
        call for op in missing for call in [*borrowed(op, calls), *(invented(op, seed) for seed in range(INVENTED))]
    ]
    trial = Fuzz(candidates, unchecked, as_is_only=True)
    task = progress.add_task("invented calls", total=len(candidates))
    for done in trial.run():
        progress.update(task, completed=done, description=f"trying {candidates[done].op}")
    working: defaultdict[str, list[Call]] = defaultdict(list)
    others: defaultdict[str, list[Call]] = defaultdict(list)
    for place, call in enumerate(candidates):
        (working if trial.works(place) else others)[call.op].append(call)
    for op in missing:
        origins["made up" if working[op] else "not reached"] += 1
        calls[op] = working[op][:FORMS] or others[op][:3]
    (folder / "origins.json").write_text(json.dumps(origins))
    torch.save(calls, file)
    return calls


def report(file: Path, fuzz: Fuzz, operations: int) -> str:
    kinds = Counter(finding.kind for finding in fuzz.findings)
    found = sorted({finding.op for finding in fuzz.findings})
    rows = [row_of(finding) for finding in fuzz.findings]
    summary = {"operations": operations, "calls": fuzz.made, "succeeded": fuzz.succeeded, "kinds": kinds}
    file.write_text(json.dumps({"summary": summary, "found": found, "findings": rows}, indent=1))
    return f"{json.dumps(summary)}\n{len(found)} operations with findings, in {file}\n"


def row_of(finding: Finding) -> dict[str, object]:
    arguments = {name: written(value) for name, value in finding.call.arguments.items()}
    return {
        "op": finding.op,
        "argument": finding.argument,
        "what": finding.what,
        "kind": finding.kind,
        "arguments": arguments,
    }


if __name__ == "__main__":
    sys.exit(main())
