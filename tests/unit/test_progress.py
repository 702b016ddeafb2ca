"""Bars of long transfers: shown late, ended always, and only where somebody looks."""

import io
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from ptrtensor.progress import Bar, terminal_bars

MIB = 1024 * 1024


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_short_transfer_shows_nothing() -> None:
    console = terminal()
    show = Bar("to bob", console)
    for done in range(0, 101):
        show(done * MIB, 100 * MIB)
    assert text(console) == ""


def test_a_long_one_is_shown_and_ended() -> None:
    console = terminal()
    show = Bar("to bob", console, patience_seconds=0)
    show(0, 100 * MIB)
    show(25 * MIB, 100 * MIB)
    assert "to bob" in text(console) and "25.0/100.0 MiB" in text(console)
    show(100 * MIB, 100 * MIB)
    written = len(text(console))
    show(0, 0)
    show(100 * MIB, 100 * MIB)
    assert len(text(console)) == written
    show(0, 200 * MIB)
    show(50 * MIB, 200 * MIB)
    show(0, 0)  # it was cut off
    assert len(text(console)) == written, "drawn again too soon"


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_ends_no_transfer() -> None:
    show = Bar("to bob", Console(file=Gone(), force_terminal=True, width=80), patience_seconds=0)
    for done in (0, 25, 50, 100):
        show(done, 100)


def test_what_the_program_prints_goes_where_it_did() -> None:
    out, err = sys.stdout, sys.stderr
    show = Bar("to bob", terminal(), patience_seconds=0)
    show(0, 100)
    show(25, 100)
    assert sys.stdout is out and sys.stderr is err
    show(100, 100)


def test_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal_bars("bob") == (None, None)
    monkeypatch.setattr(sys, "stderr", None)
    assert terminal_bars("bob") == (None, None)


PROGRAM = """
import torch, ptrtensor as pt
from ptrtensor import progress
progress.Bar.__init__.__defaults__ = (0.0,)
progress.REDRAW_SECONDS = 0.0
bob = pt.ProcessWorker(id="bob")
x = pt.send(torch.zeros(64 * 2**20, dtype=torch.uint8), bob)
x.cpu()
bob.close()
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="it needs a terminal")
def test_a_terminal_shows_both_directions() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the terminal's other end is closed
                break
    os.close(ours)
    assert child.returncode == 0, shown.decode()
    assert b"to bob" in shown and b"from bob" in shown and b"64.0 MiB" in shown
