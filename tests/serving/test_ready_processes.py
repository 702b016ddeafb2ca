"""A server keeps processes ready before anyone connects, so that a client need not wait for the import of torch."""

import contextlib
import os
import sys
from pathlib import Path

import pytest
from hospital import open_hospital

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a process's children")


def children() -> set[int]:
    """Of this process, in which the server runs."""
    files = [task / "children" for task in Path(f"/proc/{os.getpid()}/task").iterdir()]
    return {int(child) for file in files for child in file.read_text().split()}


@pytest.mark.parametrize("ahead", [0, 1])
def test_so_many_are_there_before_anyone_connects(tmp_path: Path, ahead: int) -> None:
    before = children()
    with open_hospital(tmp_path, ahead=ahead) as hospital:
        ready = children() - before
        assert len(ready) == ahead
        with contextlib.closing(hospital.connect()):
            (session,) = hospital.server.sessions
            assert ready <= {session.process.number}, "the first client has the one that was ready"
            assert len(children() - before) == 1 + ahead, "and another is made ready for the next"
    assert not children() - before
