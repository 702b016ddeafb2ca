"""The guide to serving data is true: each of its commands is run, in the place that stands above it.

The places are directories, `hospital` and `lab`; where this process may make them, they are network namespaces too,
with a wire between them, so that the two sides are two machines as far as the network goes; the test says on which of
the two it ran. A ```text block behind a command holds what it prints.
"""

import contextlib
import doctest
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "howto" / "serve-data.md"
BLOCK = re.compile(
    r"^<!-- (?P<place>hospital|lab|everywhere)(?:: (?P<how>[\w.]+))? -->\n```(?P<kind>\w*)\n(?P<code>.*?)^```\n"
    r"(?:```text\n(?P<printed>.*?)^```)?",
    re.M | re.S,
)
HOST = "hospital.example"
SECONDS = 120
RIGHTS = 1 << 12 | 1 << 21
"""CAP_NET_ADMIN and CAP_SYS_ADMIN."""

RUNNER = """
import json, sys
namespace = {"__name__": "__main__"}
for line in sys.stdin:
    exec(compile(json.loads(line), "<lab>", "exec"), namespace)
    print("\\x00", flush=True)
"""

VARYING = [
    (r"(?<=is up )\d:\d\d:\d\d", "SO LONG"),
    (r"\b[0-9a-f]{64}\b", "DIGEST"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "TIME"),
    (r"\b[0-9a-f]{8}\b", "NUMBER"),
    (r"(?<=\w:)\d+\b(?=[ ,)])", "ID"),
    (r"decider=(uid )?\w+", "decider=WHO"),
    (r"object=\d+", "object=NAME"),
    (r"^ *\d+  TIME", "TIME"),
    (r"tensor\([\d.e-]+\)", "tensor(VALUE)"),
    (r"valid until \d{4}-\d\d-\d\d$", "valid until DAY"),
    (r"(?<=torch 2\.13\.)\d+(\+\w+)?", "SOME"),
    (r"\d+ s  \d+ operations \(\d+/s\)  \d+ objects of \d+ bytes", "SOME s  SOME operations"),
    (r": \d+ records", ": SOME records"),
]


def fixed(text: str) -> str:
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text, flags=re.M)
    return text


@dataclass
class Place:
    """A directory, and where commands in it run."""

    folder: Path
    prefix: list[str] = field(default_factory=list)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*self.prefix, *command],
            cwd=self.folder,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str) -> str:
        with self.start("bash", "-euo", "pipefail", "-c", code) as shell:
            printed, errors = shell.communicate(timeout=SECONDS)
        assert shell.returncode == 0, f"{code}\n{printed}{errors}"
        return printed


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[list[str], list[str], str]]:
    """How to run a command in each of two, and the address of the first; without the right to make them, nothing.

    :raises AssertionError: this process has that right, and they could not be made.
    """
    names = [f"ptrtensor-{side}-{os.getpid()}" for side in ("a", "b")]
    wires = [f"pt{side}{os.getpid()}" for side in ("a", "b")]
    with contextlib.ExitStack() as stack:
        try:
            for name in names:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "delete", name)
            ip("link", "add", wires[0], "netns", names[0], "type", "veth", "peer", "name", wires[1], "netns", names[1])
            for name, wire, address in zip(names, wires, ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
                ip("-n", name, "address", "add", address, "dev", wire)
                ip("-n", name, "link", "set", wire, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            assert not may_make_namespaces(), getattr(error, "stderr", error)
            yield [], [], "127.0.0.1"
        else:
            yield ["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]], "10.77.0.1"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def may_make_namespaces() -> bool:
    """Whether there is the command, and the right to administer the system and its network; root in a container has
    not always both.
    """
    if shutil.which("ip") is None or not Path("/proc/self/status").exists():
        return False
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.M)
    return found is not None and int(found[1], 16) & RIGHTS == RIGHTS


class Guide:
    """The places of the guide, and what runs in them."""

    def __init__(self, folder: Path, hospital: list[str], lab: list[str], host: str) -> None:
        self.places = {
            "everywhere": Place(folder),
            "hospital": Place(folder / "hospital", hospital),
            "lab": Place(folder / "lab", lab),
        }
        self._host = host
        self._server: subprocess.Popen[str] | None = None
        self._alice: subprocess.Popen[str] | None = None
        self._request = ""

    def run(self, place: str, how: str | None, kind: str, code: str) -> str:
        """What the block prints."""
        code = code.replace(HOST, self._host)
        if how == "serve":
            self._server = self.places[place].start(*code.replace("0.0.0.0", self._host).split())
            assert self._server.stdout is not None
            return self._server.stdout.readline().replace(self._host, "0.0.0.0")
        if how is not None:
            (self.places[place].folder / how).write_text(code)
            return ""
        if kind == "python":
            return self._exec(code)
        printed = ""
        for line in code.splitlines():  # one after the other: an ID is known when it was listed
            printed += self.places[place].run(
                re.sub(r"\bID\b", self._request, line).replace("127.0.0.1:7700", f"{self._host}:7700")
            )
            if line == "ptrtensor requests list":
                self._request = printed.split()[0]
        return printed

    def _exec(self, code: str) -> str:
        if self._alice is None:
            self._alice = self.places["lab"].start(sys.executable, "-W", "error", "-c", RUNNER)
        assert self._alice.stdin is not None and self._alice.stdout is not None and self._alice.stderr is not None
        self._alice.stdin.write(json.dumps(code) + "\n")
        self._alice.stdin.flush()
        printed = ""
        while "\0" not in printed:
            line = self._alice.stdout.readline()
            assert line, self._alice.stderr.read()
            printed += line
        return printed.rpartition("\0")[0]

    def end(self) -> str:
        """What the server wrote to its log."""
        if self._alice is not None:
            self._alice.communicate(timeout=SECONDS)
        assert self._server is not None
        self._server.send_signal(signal.SIGTERM)
        _, log = self._server.communicate(timeout=SECONDS)
        assert self._server.returncode == 0, log
        return log

    def kill(self) -> None:
        for process in (self._alice, self._server):
            if process is not None:
                process.kill()
                process.communicate()


@pytest.mark.timeout(300)
def test_the_guide_from_nothing_to_the_audit_log(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    checker = doctest.OutputChecker()
    blocks = list(BLOCK.finditer(GUIDE.read_text()))
    assert len(blocks) > 20
    with namespaces() as (hospital, lab, host):
        ran_on = "two network namespaces" if hospital else "one machine: two network namespaces could not be made"
        record_property("ran on", ran_on)
        print(f"ran on {ran_on}")  # noqa: T201
        guide = Guide(tmp_path, hospital, lab, host)
        try:
            for block in blocks:
                got = guide.run(block["place"], block["how"], block["kind"], block["code"])
                if block["printed"] is not None:
                    want, got = fixed(block["printed"]), fixed(got)
                    assert checker.check_output(want, got, doctest.ELLIPSIS), f"{block['code']}\n{want}\n{got}"
            events = [json.loads(line)["event"] for line in guide.end().splitlines()]
        finally:
            guide.kill()
    assert {"session began", "denied", "requested", "approved", "released", "session ended"} <= set(events)
