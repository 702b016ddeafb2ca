"""docs/reference/protocol.md says what the code does: citations, limits, messages."""

import re
from pathlib import Path
from typing import Final, get_args

import msgspec
import pytest

from ptrtensor.wire import limits
from ptrtensor.wire.instruction import Argument, FloatSlot, Instruction, IntegerSlot, ObjectSlot, ViewSlot
from ptrtensor.wire.messages import (
    PAYLOAD_OF_TENSOR,
    ClientMessage,
    Entry,
    Extent,
    Failure,
    Settings,
    Timing,
    WorkerMessage,
)
from ptrtensor.wire.metadata import ITEM_BYTES, TensorMeta

ROOT: Final = Path(__file__).parents[3]
SOURCE: Final = ROOT / "src" / "ptrtensor"
DOCUMENT: Final = (ROOT / "docs" / "reference" / "protocol.md").read_text()

FROM_CLIENT: Final[tuple[type[msgspec.Struct], ...]] = get_args(ClientMessage)
FROM_WORKER: Final[tuple[type[msgspec.Struct], ...]] = get_args(WorkerMessage)
PARTS: Final[tuple[type[msgspec.Struct], ...]] = (TensorMeta, Extent, Entry, Failure, Timing, Instruction, Settings)

PARAGRAPHS: Final = set(re.findall(r"^\*\*(P\d+\.\d+)\*\*", DOCUMENT, re.MULTILINE))
SECTIONS: Final = set(re.findall(r"^## (P\d+) ", DOCUMENT, re.MULTILINE))


def section(title: str, level: str) -> str:
    """The text under a heading, up to the next of the same or a higher level."""
    found = re.search(rf"^{level} {title}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no heading {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the first table, without its head."""
    table = re.search(r"^\|[^\n]*\|\n\|[-|]+\|\n((?:\|[^\n]*\|\n?)*)", text, re.MULTILINE)
    assert table is not None, f"no table in {text[:100]!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def test_every_citation_exists() -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{number}: {cited}"
        for path in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for cited in re.findall(r"\[(P\d+(?:\.\d+)?)\]", line)
        if cited not in PARAGRAPHS | SECTIONS
    ]
    assert not missing


def test_every_reference_within_the_document_exists() -> None:
    assert set(re.findall(r"\bP\d+\.\d+\b", DOCUMENT)) <= PARAGRAPHS
    assert set(re.findall(r"\b(P\d+)\b(?!\.)", DOCUMENT)) <= SECTIONS


def test_paragraphs_are_numbered_in_order() -> None:
    numbers = [
        tuple(map(int, number.split("."))) for number in re.findall(r"^\*\*P(\d+\.\d+)\*\*", DOCUMENT, re.MULTILINE)
    ]
    assert numbers == sorted(set(numbers))
    for major in {number[0] for number in numbers}:
        minors = [number[1] for number in numbers if number[0] == major]
        assert minors == list(range(1, len(minors) + 1)), f"P{major}"


def test_the_limits_are_those_of_the_code() -> None:
    written = {name.strip("`"): int(value) for name, value, _ in rows(section("P3 Limits", "##"))}
    in_code = {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    assert written == in_code


def test_the_namespaces_are_those_of_the_code() -> None:
    [sentence] = re.findall(r"those of the namespaces ([^.]*)\.", DOCUMENT)
    assert tuple(re.findall(r"`(\w+)`", sentence)) == limits.NAMESPACES


def test_the_version_is_that_of_the_code() -> None:
    assert f"This is version {limits.PROTOCOL_VERSION}." in DOCUMENT


def test_the_dtypes_are_those_of_the_code() -> None:
    [paragraph] = re.findall(r"^\*\*P4\.5\*\*(.*?)\n\n", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert {name: int(size) for name, size in re.findall(r"`(\w+)` (\d+)", paragraph)} == ITEM_BYTES


def test_the_messages_are_those_of_the_code() -> None:
    for title, kinds in (("From the client", FROM_CLIENT), ("From the worker", FROM_WORKER)):
        headings = re.findall(r"^#### (\w+)$", section(title, "###"), re.MULTILINE)
        assert headings == [kind.__name__ for kind in kinds], title


@pytest.mark.parametrize("kind", [*FROM_CLIENT, *FROM_WORKER, *PARTS], ids=lambda kind: str(kind.__name__))
def test_the_fields_are_those_of_the_code(kind: type[msgspec.Struct]) -> None:
    written = [(cells[0].strip("`"), cells[1]) for cells in rows(section(kind.__name__, "####"))]
    assert [name for name, _ in written] == [field.encode_name for field in msgspec.structs.fields(kind)]
    if kind is Settings:
        return
    for (name, type_), field in zip(written, msgspec.structs.fields(kind), strict=True):
        optional = "default" in type_ or field.default is None
        assert optional == (field.default is not msgspec.NODEFAULT), name


def test_the_arguments_are_those_of_the_code() -> None:
    written = {
        letter: in_command != "nothing"
        for letter, in_command in re.findall(r'^\| `\["(\w)".*?\]` \| (.*?) \|', DOCUMENT, re.MULTILINE)
    }
    in_code: dict[object, bool] = {}
    for kind in get_args(Argument):
        tag = msgspec.inspect.type_info(kind).tag  # type: ignore[attr-defined]
        in_code[tag] = kind in (ObjectSlot, ViewSlot, IntegerSlot, FloatSlot) or tag == "l"
    assert written == in_code


def test_the_payloads_are_those_of_the_code() -> None:
    [sentence] = re.findall(r"^\*\*P2\.3\*\* The payload of (.*?) is the value of a tensor", DOCUMENT, re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", sentence)) == tuple(kind.__name__ for kind in PAYLOAD_OF_TENSOR)
