"""`ProcessWorker` works wherever Python runs: in scripts of any form, in any folder, from any thread."""

import subprocess
import sys
from pathlib import Path

import pytest
from child_processes import ENVIRONMENT, SECONDS, run

import ptrtensor as pt

PROGRAM = """
import torch, ptrtensor as pt
bob = pt.ProcessWorker(id="bob")
print((torch.ones(2, device=bob.device) + 1).tolist())
bob.close()
"""

PLAIN = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}


def python(*arguments: str, cwd: Path, program: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=PLAIN,
        input=program,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("form", ["a script", "-c", "standard input"])
def test_no_guard_is_needed_in_any_form_of_program(form: str, tmp_path: Path) -> None:
    """With spaces in every path, and modules in the working directory that are called as Python's own are."""
    folder, elsewhere = tmp_path / "a folder é", tmp_path / "another  one"
    folder.mkdir()
    elsewhere.mkdir()
    for name in ("select", "queue", "uuid", "torch", "msgspec"):
        (elsewhere / f"{name}.py").write_text("raise ImportError('a stray module in the working directory')")
    if form == "a script":
        (folder / "my script.py").write_text(PROGRAM)
        finished = python(str(folder / "my script.py"), cwd=elsewhere)
    elif form == "-c":
        finished = python("-c", PROGRAM, cwd=folder)
    else:
        finished = python("-", cwd=folder, program=PROGRAM)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "[2.0, 2.0]\n", "")


def test_in_a_notebook_and_in_a_thread_and_several_at_once() -> None:
    finished = run("""
        import sys, threading
        main = sys.modules["__main__"]
        del main.__file__
        sys.argv = [""]
        cells = [
            "import torch, ptrtensor as pt",
            "bob = pt.ProcessWorker(id='bob'); alice = pt.ProcessWorker(id='alice')",
            "x = torch.ones(2, device=bob.device); y = pt.send(torch.ones(2), alice)",
            "print(pt.get(x + x + pt.move(y, bob)).tolist())",
            "made = []",
            "thread = threading.Thread(target=lambda: made.append(pt.ProcessWorker(id='carol')))",
            "thread.start(); thread.join(); (carol,) = made",
            "print(torch.arange(2, device=carol.device).tolist())",
        ]
        notebook = {"__name__": "__main__", "threading": threading}
        for number, cell in enumerate(cells):
            exec(compile(cell, f"<ipython-input-{number}>", "exec"), notebook)
    """)
    assert finished == {"status": 0, "output": "[3.0, 3.0]\n[0, 1]\n", "errors": ""}


def test_a_line_of_a_notebook_in_an_error() -> None:
    finished = run("""
        notebook = {}
        for number, cell in enumerate([
            "import torch, ptrtensor as pt; bob = pt.VirtualWorker(id='bob')",
            "bad = torch.ones(2, device=bob.device)[torch.tensor([5])]",
        ]):
            exec(compile(cell, f"<ipython-input-{number}>", "exec"), notebook)
    """)
    assert finished["status"] == 1
    assert 'File "<ipython-input-1>", line 1, in <module>' in finished["errors"]


def test_closed_standard_streams() -> None:
    """As of a service, which has none."""
    finished = run("""
        import os, sys
        answers = os.dup(1)
        for number in range(3):
            os.close(number)
        import torch, ptrtensor as pt
        bob = pt.ProcessWorker(id="bob")
        value = (torch.ones(2, device=bob.device) + 1).tolist()
        bob.close()
        os.write(answers, f"{value}".encode())
        os._exit(0)
    """)
    assert (finished["status"], finished["output"]) == (0, "[2.0, 2.0]")


def test_what_is_imported_is_what_the_starter_imported(process_worker: pt.ProcessWorker) -> None:
    """The worker's process finds ptrtensor where this one did, whatever the path says."""
    arguments = Path(f"/proc/{process_worker._process.process.pid}/cmdline").read_text().split("\0")
    assert arguments[0] == sys.executable
    assert "ptrtensor.worker" in arguments
