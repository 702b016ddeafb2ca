"""The wheel: whole, typed, and asking for nothing that the library does not need."""

import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("ptrtensor-*-py3-none-any.whl")
    return zipfile.ZipFile(found)


def test_it_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    source = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == source | {"ptrtensor/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_it_requires_three_packages(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    requirements = email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist") or []
    always = {re.split(r"[^\w-]", text)[0] for text in requirements if "extra ==" not in text}
    assert always == {"torch", "numpy", "msgspec"}
