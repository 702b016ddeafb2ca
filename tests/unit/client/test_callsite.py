"""Call sites: an error names the user's own line, wherever torch or ptrtensor were in between."""

import linecache
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pytest
import torch
from torch import Tensor, nn

import ptrtensor as pt
from ptrtensor.client.callsite import PTRTENSOR_FOLDER, CallSite, CallSites, library_folder

HERE = __file__


class Frames:
    """Functions from files of any name that call one another; but for the file they are equal, as code objects too."""

    def __init__(self, sites: CallSites, *files: str) -> None:
        self._call = sites.current
        for file in files:
            namespace: dict[str, object] = {"inner": self._call}
            exec(compile("def outer():\n    return inner()\n", file, "exec"), namespace)
            self._call = namespace["outer"]  # type: ignore[assignment]

    def site(self) -> CallSite:
        return self._call()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("/home/me/a.py",), "/home/me/a.py"),
        (("/lib/torch/x.py", "/home/me/a.py"), "/home/me/a.py"),
        (("/lib/ptr/x.py", "/lib/torch/y.py", "/lib/ptr/z.py", "/home/me/a.py"), "/home/me/a.py"),
        (("/home/me/a.py", "/lib/torch/y.py", "/home/me/b.py"), "/home/me/a.py"),
        (("/lib/torchvision/x.py", "/home/me/a.py"), "/lib/torchvision/x.py"),
        (("<ipython-input-3>",), "<ipython-input-3>"),
    ],
)
def test_the_innermost_frame_that_is_no_librarys(files: tuple[str, ...], found: str) -> None:
    sites = CallSites(("/lib/torch/", "/lib/ptr/"))
    frames = Frames(sites, *files)
    for _ in range(2):  # the second time from memory
        site = frames.site()
        assert (site.code.co_filename, site.line) == (found, 2)


def test_where_all_frames_are_a_librarys_the_outermost_is_named() -> None:
    everything = CallSites(("",))
    assert isinstance(everything.current(), CallSite)


def test_text() -> None:
    code: CodeType = test_text.__code__
    line = code.co_firstlineno + 1
    assert str(CallSite(code, line)) == (
        f'File "{HERE}", line {line}, in test_text\n    {linecache.getline(HERE, line).strip()}'
    )
    assert str(CallSite(code, 10**6)) == f'File "{HERE}", line 1000000, in test_text'


def test_folders() -> None:
    assert library_folder("/a/b/__init__.py") == "/a/b/"
    assert Path(PTRTENSOR_FOLDER, "client", "callsite.py").exists()


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)

    def forward(self, places: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(places)  # here
        return embedded


def line_of(marker: str) -> int:
    lines = Path(HERE).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {marker}"))


def test_an_operation_in_a_module_is_the_modules_line(make_worker: Callable[[str], pt.Worker]) -> None:
    worker = make_worker("virtual")
    lookup = pt.send(Lookup(), worker)
    lookup(pt.send(torch.tensor([7]), worker))
    with pytest.raises(pt.RemoteOpError, match=f'{HERE}", line {line_of("here")}, in forward'):
        worker.synchronize()


SYNCHRONOUS = """
import torch
import ptrtensor as pt
bob = pt.VirtualWorker(id="bob")
places, table = pt.send(torch.tensor([7]), bob), pt.send(torch.ones(2, 2), bob)
try:
    torch.nn.functional.embedding(places, table)
    raised = "later"
except pt.RemoteOpError as error:
    raised = "at the line" if "line 6" in str(error) else str(error)
try:
    bob.synchronize()
except pt.RemoteOpError:
    raised = "later"
print(raised)
"""


@pytest.mark.parametrize(("setting", "raised"), [("1", "at the line"), ("0", "later"), ("", "later")])
def test_ptrtensor_sync_waits_after_every_operation(setting: str, raised: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", SYNCHRONOUS.strip()],
        env={**os.environ, "PTRTENSOR_SYNC": setting},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == raised
