"""What is told of another process: its time, while it runs and when it has ended, and whether it was stopped."""

import signal
import subprocess
import sys
import time

import pytest

from ptrtensor.owner.processor_time import has_ended, is_stopped, seconds_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")

COMPUTING = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"


def test_it_is_told_while_it_runs_and_until_its_status_is_asked_for() -> None:
    command = [sys.executable, "-S", "-c", COMPUTING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        running = seconds_of(process.pid)
        assert running is not None and running >= 0.28 and not has_ended(process.pid)
        process.stdin.close()
        deadline = time.monotonic() + 20
        while not has_ended(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        ended = seconds_of(process.pid)
        assert ended is not None and ended >= running
        assert process.wait() == 0
        assert has_ended(process.pid)


def test_of_what_is_no_process_nothing_is_told() -> None:
    assert seconds_of(2**22 + 1) is None


def test_one_that_was_stopped_is_told_from_one_that_waits() -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as process:
        try:
            assert not is_stopped(process.pid)
            process.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 20
            while not is_stopped(process.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert is_stopped(process.pid)
        finally:
            process.kill()
    assert not is_stopped(process.pid)
