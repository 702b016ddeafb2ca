"""The end of a program: errors that nobody saw, its exit status, and its worker processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child_processes import ENVIRONMENT, SECONDS, run, start, until, until_gone

FAILING = """
import sys, torch, ptrtensor as pt
bob = pt.{kind}(id="bob")
values, indices = torch.ones(2, device=bob.device), torch.full((2,), 7, device=bob.device)
print("buffered")
bad = values.gather(0, indices)  # the line that fails
"""


@pytest.mark.parametrize("kind", ["VirtualWorker", "ProcessWorker"])
def test_an_error_that_nobody_saw_is_printed_and_gives_the_status(kind: str) -> None:
    finished = run(FAILING.format(kind=kind))
    assert finished["status"] == 1
    assert finished["output"] == "buffered\n"
    assert "aten::gather(float32[2], 0, int64[2])" in finished["errors"]
    assert "line 6, in <module>\n    bad = values.gather(0, indices)  # the line that fails" in finished["errors"]
    assert "Traceback (most recent call last)" in finished["errors"]


def test_an_error_that_was_seen_leaves_the_status() -> None:
    finished = run(FAILING.format(kind="VirtualWorker") + "try: bad.cpu()\nexcept pt.RemoteOpError: pass")
    assert finished["status"] == 0
    assert finished["errors"] == ""


def test_the_status_can_be_left_alone() -> None:
    finished = run(FAILING.format(kind="VirtualWorker"), PTRTENSOR_EXIT_STATUS="0")
    assert finished["status"] == 0
    assert "the line that fails" in finished["errors"]


def test_errors_of_several_workers_are_all_printed() -> None:
    finished = run(
        FAILING.format(kind="VirtualWorker")
        + "alice = pt.VirtualWorker(id='alice')\ntorch.ones(2, device=alice.device)[torch.tensor([5])]"
    )
    assert finished["status"] == 1
    assert "at worker bob" in finished["errors"]
    assert "at worker alice" in finished["errors"]


@pytest.mark.parametrize("failing", [False, True], ids=["healthy", "failing"])
@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('my last words')", 1, "my last words\n"),
        ("raise ValueError('of the user')", 1, "ValueError: of the user"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("bad = 'a name for the result'; del values", 0, ""),
    ],
)
def test_the_users_own_ending_survives(failing: bool, ending: str, status: int, said: str) -> None:
    code = FAILING.format(kind="VirtualWorker")
    if not failing:
        code = code.replace("bad = ", "bad = 1 #")
    finished = run(code + ending)
    assert said in finished["errors"]
    assert ("the line that fails" in finished["errors"]) == failing
    if failing:
        assert finished["status"] != 0
    else:
        assert finished["status"] == status


def test_handlers_of_others_run_and_files_are_flushed(tmp_path: Path) -> None:
    """An interpreter of its own, since the order of imports matters here."""
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, logging, sys, tempfile\n"
        "folder = tempfile.TemporaryDirectory()\n"
        "print(folder.name)\n"
        "atexit.register(print, 'registered before the import')\n"
        "unflushed = open('unflushed.txt', 'w')\n"
        "unflushed.write('written')\n"
        "import torch, ptrtensor as pt\n"
        "atexit.register(print, 'registered after the import')\n"
        "bob = pt.VirtualWorker(id='bob')\n"
        "bad = torch.ones(2, device=bob.device)[torch.tensor([5])]\n"
    )
    finished = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS
    )
    assert finished.returncode == 1
    folder, *rest = finished.stdout.splitlines()
    assert rest == ["registered after the import", "registered before the import"]
    assert "issued by File" in finished.stderr
    assert not Path(folder).exists()
    assert (tmp_path / "unflushed.txt").read_text() == "written"


def test_living_pointers_print_nothing() -> None:
    finished = run("""
        import threading, torch, ptrtensor as pt
        from torch import nn
        kept = []
        for bob in (pt.VirtualWorker(id="here"), pt.ProcessWorker(id="there")):
            leaf = torch.ones(2, device=bob.device, requires_grad=True)
            loss = (leaf * leaf).sum()
            loss.backward()
            model = pt.send(nn.Linear(2, 1), bob)
            optimizer = torch.optim.Adam(model.parameters())
            model(leaf).sum().backward()
            optimizer.step()
            cycle = [leaf, loss, model]
            cycle.append(cycle)
            leaf.register_hook(lambda gradient: gradient)
            kept += [leaf, loss, model, optimizer, cycle, leaf.detach(), loss + 1, bob]
            pt.kept = kept
            local = threading.local()
            local.kept = leaf * 2
            thread = threading.Thread(target=lambda held: None, args=(leaf * 3,))
            thread.start()
        print("done")
    """)
    assert finished == {"status": 0, "output": "done\n", "errors": ""}


def test_threads_that_still_compute_do_not_hinder_the_end() -> None:
    finished = run("""
        import threading, time, torch, ptrtensor as pt
        workers = pt.VirtualWorker(id="here"), pt.ProcessWorker(id="there")
        counts = [0, 0]

        def stream(number):
            value = torch.ones(2, device=workers[number].device)
            try:
                while True:
                    value = value * 0.5 + 1
                    counts[number] += 1
                    if counts[number] % 100 == 0:
                        value.sum().item()
            except pt.WorkerLostError:
                pass  # the program ends

        for number in range(2):
            threading.Thread(target=stream, args=(number,), daemon=True).start()
        while min(counts) < 500:
            time.sleep(0.01)
    """)
    assert finished == {"status": 0, "output": "", "errors": ""}


# --- worker processes end with their starter

ENDINGS = {
    "the last line": ("pass", None, 0),
    "sys.exit": ("sys.exit(3)", None, 3),
    "an exception": ("raise ValueError", None, 1),
    "os._exit": ("os._exit(4)", None, 4),
    "SIGTERM": ("time.sleep(100)", signal.SIGTERM, -signal.SIGTERM),
    "SIGKILL": ("time.sleep(100)", signal.SIGKILL, -signal.SIGKILL),
    "Ctrl-C": ("time.sleep(100)", signal.SIGINT, -signal.SIGINT),
    "SIGKILL while it streams": ("stream()", signal.SIGKILL, -signal.SIGKILL),
    "Ctrl-C while it streams": ("stream()", signal.SIGINT, -signal.SIGINT),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_worker_process_ends_with_its_starter(ending: str) -> None:
    code, sent, status = ENDINGS[ending]
    program = start(f"""
import os, sys, time, torch, ptrtensor as pt
bob = pt.ProcessWorker(id="bob")
pointer = torch.ones(2, device=bob.device)
def stream():
    value = pointer
    while True:
        value = value * 0.5
print("worker", bob._process.process.pid, flush=True)
{code}
""")
    with program:
        worker = int(program.says("worker "))
        if sent is not None:
            time.sleep(0.1)
            os.killpg(program.pid, sent) if sent == signal.SIGINT else os.kill(program.pid, sent)
        assert program.ends() == status, program.errors
        until_gone(worker, seconds=20)


def test_ctrl_c_while_a_worker_starts() -> None:
    program = start("""
        import os, threading, time, ptrtensor as pt
        from pathlib import Path
        print("starting", flush=True)
        def tell():
            while not (children := Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()):
                time.sleep(0.01)
            print("worker", *children, flush=True)
        threading.Thread(target=tell).start()
        try:
            pt.ProcessWorker(id="bob")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    with program:
        worker = int(program.says("worker "))
        until(lambda: "libtorch" in Path(f"/proc/{worker}/maps").read_text(), "the worker to import torch")
        program.interrupt()
        program.says("interrupted")
        assert program.ends() == 0
        until_gone(worker, seconds=20)
        assert program.errors == ""  # no traceback of the worker's either
