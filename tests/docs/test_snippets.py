"""The documentation is true: its Python runs, prints what it shows, its links lead somewhere, its names exist.

A document's ```python blocks run in order in one namespace, in a process of their own. A ```text block that follows
one holds what it prints; ids and line numbers may differ, and `...` stands for anything. A block under
`<!-- no-run -->` is not run; nor is one that is marked for a place of the guide (test_serving_guide.py).
"""

import contextlib
import doctest
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ptrtensor

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL_MARKDOWN = [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]

FENCED = re.compile(r"(?P<mark><!-- [\w: .-]+ -->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.M)
ID = re.compile(r"(?<=\w:)\d+\b(?=[ ,)])|\b\d+(?=: (?:tensor|TensorMeta)\b)|(?<=\bline )\d+")

ADDRESS = "127.0.0.1:7700"
"""Where the documents' worker listens. A document that connects to it gets one, on a free port."""

RUNNER = """
import json, sys
namespace = {"__name__": "__main__"}
path, blocks = json.load(sys.stdin)
for line, code in blocks:
    exec(compile("\\n" * line + code, path, "exec"), namespace)
    print("\\x00", end="", flush=True)
"""
"""Runs blocks under their line numbers in the document, with a mark after what each printed."""


class Snippet(NamedTuple):
    """A block of Python: how many lines stand above it, and what it prints if the document says so."""

    line: int
    code: str
    printed: str | None


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def snippets(document: Path) -> Iterator[Snippet]:
    text = document.read_text()
    blocks = list(FENCED.finditer(text))
    for block, follower in zip(blocks, [*blocks, None][1:], strict=True):
        if block["kind"] == "python" and block["mark"] is None:
            shown = follower is not None and follower["kind"] == "text"
            printed = follower["code"] if follower is not None and shown else None
            yield Snippet(text.count("\n", 0, block.start("code")), block["code"], printed)


@contextlib.contextmanager
def listener(shell: str) -> Iterator[str]:
    """The worker that a document tells its reader to start, on a free port; yields its address."""
    command = re.search(rf"^python (-m ptrtensor\.worker .*{re.escape(ADDRESS)}.*)$", shell, re.M)
    assert command is not None, f"no command of the document starts a worker at {ADDRESS}"
    arguments = command[1].replace(ADDRESS, "127.0.0.1:0").split()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()


def run(document: Path, folder: Path) -> list[str]:
    """What each block of the document prints."""
    blocks = [(snippet.line, snippet.code) for snippet in snippets(document)]
    with contextlib.ExitStack() as stack:
        if any(ADDRESS in code for _, code in blocks):
            address = stack.enter_context(listener(document.read_text()))
            blocks = [(line, code.replace(ADDRESS, address)) for line, code in blocks]
        child = subprocess.run(
            [sys.executable, "-W", "error", "-c", RUNNER],
            input=json.dumps([str(document), blocks]),
            cwd=folder,
            capture_output=True,
            text=True,
        )
    assert child.returncode == 0 and not child.stderr, child.stderr
    return child.stdout.split("\0")


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if any(snippets(path))], ids=name)
def test_snippets_run_and_print_what_they_show(document: Path, tmp_path: Path) -> None:
    printed = run(document, tmp_path)
    checker = doctest.OutputChecker()
    for snippet, got in zip(snippets(document), printed, strict=False):
        if snippet.printed is not None:
            want, got = ID.sub("ID", snippet.printed), ID.sub("ID", got)
            assert checker.check_output(want, got, doctest.ELLIPSIS), f"{document}:{snippet.line}\n{want}\n{got}"


@pytest.mark.parametrize("document", ALL_MARKDOWN, ids=name)
def test_relative_links_lead_to_files_and_headings(document: Path) -> None:
    broken = []
    for path, anchor in LINK.findall(FENCED.sub("", document.read_text())):
        target = (document.parent / path) if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}")
    assert broken == []


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    headings = HEADING.findall(FENCED.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_reached_from_the_map() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / path).resolve() for path, _ in LINK.findall(index.read_text())}
    assert {name(path) for path in set(DOCUMENTS) - linked - {index}} == set()


@pytest.mark.parametrize("public", ptrtensor.__all__)
def test_every_public_name_is_in_the_reference(public: str) -> None:
    assert f"`{public}" in (ROOT / "docs" / "reference" / "api.md").read_text()


def test_every_error_is_explained() -> None:
    explained = (ROOT / "docs" / "reference" / "errors.md").read_text()
    assert [each for each in vars(ptrtensor.errors) if each.endswith("Error") and f"`{each}`" not in explained] == []


def test_every_environment_variable_is_in_the_settings() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    settings = (ROOT / "docs" / "reference" / "settings.md").read_text()
    read = set(re.findall(r"environ.*?(PTRTENSOR_[A-Z_]+)", source))
    assert read and [variable for variable in read if f"`{variable}" not in settings] == []


def test_every_decision_that_the_source_cites_is_explained() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    headings = HEADING.findall((ROOT / "docs" / "explanation" / "design.md").read_text())
    explained = {heading.partition(" ")[0].rstrip(".:") for heading in headings}
    assert set(re.findall(r'(?<!")\b[DF]\d+\b(?!")', source)) <= explained
