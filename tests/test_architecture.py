"""Who may import whom: the table of docs/explanation/design.md, held by walking the imports of the source."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "ptrtensor"

# A room is a module or package directly under ptrtensor; "" is ptrtensor/__init__.py itself.
# A room may import itself and what stands beside its name, nothing else of ours.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "locks": set(),
    "progress": set(),
    "tally": set(),
    "paths": {"errors"},
    "_torch": {"errors", "locks", "wire.metadata", "wire.limits"},
    "wire": {"errors", "locks"},
    "transport": {"errors", "wire"},
    "worker": {"errors", "version", "tally", "wire", "transport", "_torch"},
    "owner": {"errors", "version", "locks", "tally", "wire", "transport", "worker"},
    "cli": {"errors", "version", "paths", "transport", "worker", "owner", "_torch"},
    "__main__": set(),
    "client": {"errors", "version", "wire", "transport"},
    "tensor": {"errors", "locks", "wire", "client", "_torch"},
    "verbs": {"errors", "tensor"},
    "api": {
        *("errors", "version", "paths", "progress"),
        *("wire", "transport", "worker", "client", "tensor", "verbs", "_torch"),
    },
    "data_server": {"errors", "paths", "owner", "tensor", "_torch"},
    "": {
        "errors",
        "version",
        "wire",
        "transport",
        "worker",
        "client",
        "tensor",
        "_torch",
        "verbs",
        "api",
        "data_server",
    },
}

# What these rooms must not import of others: the wire is bytes and values, and only some rooms know tensors.
MUST_NOT_IMPORT: dict[str, set[str]] = {
    "errors": {"torch", "numpy"},
    "wire": {"torch", "numpy", "asyncio", "selectors", "select", "socket", "ssl", "subprocess"},
    "transport": {"torch"},
    "client": {"torch"},
}

# Methods of a pointer that the stubs of torch give no type that they could have.
FORCED_BY_TORCHS_STUBS = re.compile(r"    def (__torch_dispatch__|numpy|__repr__)\(.*# type: ignore\[override\]$")


def module_name(path: Path) -> str:
    """`wire.messages` for wire/messages.py, `wire` for wire/__init__.py, `` for ptrtensor/__init__.py."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PATHS: dict[str, Path] = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
MODULES: dict[str, ast.Module] = {module: ast.parse(path.read_text(), str(path)) for module, path in PATHS.items()}
PACKAGES = {module_name(path) for path in SOURCE.rglob("__init__.py")}


def imported_names(module: str) -> Iterator[str]:
    """The absolute dotted name of every import of a module, those for type checking too.

    `from a import b` gives `a.b`, whether b is a module or a name in a.
    """
    package = ["ptrtensor", *module.split(".")] if module else ["ptrtensor"]
    if module not in PACKAGES:
        package.pop()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = [*base, node.module] if node.module else base
            yield from (".".join([*origin, alias.name]) for alias in node.names)


def our_imports(module: str) -> Iterator[str]:
    """The modules of ptrtensor that a module imports, named as in MODULES."""
    for name in imported_names(module):
        top, _, inner = name.partition(".")
        if top == "ptrtensor":
            yield inner if inner in MODULES else inner.rpartition(".")[0]


def room_of(module: str) -> str:
    return module.partition(".")[0]


def is_within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def dotted(node: ast.AST) -> list[str]:
    """`torch._C.x` -> torch, _C, x; nothing where it does not begin with a name."""
    if isinstance(node, ast.Name):
        return [node.id]
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else []
    return [*inner, node.attr] if inner and isinstance(node, ast.Attribute) else []


def run_python(code: str) -> str:
    """What the code prints in a Python process of its own."""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()


def test_every_module_has_a_room_in_the_table() -> None:
    assert {room_of(module) for module in MODULES} == set(MAY_IMPORT)


def test_rooms_import_only_what_is_below_them() -> None:
    wrong = [
        f"{module or '__init__'} imports {imported or 'the package itself'}"
        for module in MODULES
        for imported in our_imports(module)
        if room_of(imported) != room_of(module)
        and not any(is_within(imported, place) for place in MAY_IMPORT[room_of(module)])
    ]
    assert wrong == []


def test_rooms_leave_alone_what_is_not_their_business() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        for name in imported_names(module)
        if name.partition(".")[0] in MUST_NOT_IMPORT.get(room_of(module), set())
    ]
    assert wrong == []


def test_types_are_ignored_in_one_place() -> None:
    wrong = [
        f"{module}:{number}"
        for module, path in PATHS.items()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "type: ignore" in line
        and room_of(module) != "_torch"
        and not (module == "tensor.pointer" and FORCED_BY_TORCHS_STUBS.match(line))
    ]
    assert wrong == []


def test_what_is_private_in_torch_is_used_in_one_place() -> None:
    wrong = [
        f"{module}:{node.lineno}"
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and room_of(module) != "_torch"
        if (parts := dotted(node)) and parts[0] in ("torch", "Tensor") and parts[1] != "ops"
        if re.match("_[^_]", parts[-1])
    ]
    assert wrong == []


def test_imports_have_no_cycle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        graph[module].update(imported for imported in our_imports(module) if imported != module)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_no_import_inside_a_function() -> None:
    wrong = [
        f"{module or '__init__'}:{node.lineno}"
        for module, tree in MODULES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert wrong == []


def test_the_whole_wire_is_imported_without_torch_or_numpy() -> None:
    # A stub stands in for the parent package, whose own __init__ imports torch.
    code = f"""
import importlib, pkgutil, sys, types
package = types.ModuleType("ptrtensor")
package.__path__ = [{str(SOURCE)!r}]
sys.modules["ptrtensor"] = package
import ptrtensor.wire
for module in pkgutil.walk_packages(ptrtensor.wire.__path__, "ptrtensor.wire."):
    importlib.import_module(module.name)
print(sorted({{"torch", "numpy"}} & set(sys.modules)))
"""
    assert run_python(code) == "[]"


def test_importing_ptrtensor_imports_no_network_or_plotting_library() -> None:
    heavy = {"ray", "matplotlib", "requests", "aiohttp", "httpx", "rich", "tqdm", "websockets", "zmq", "grpc"}
    code = f"""
import sys
import torch
imported_by_torch = set(sys.modules)
import ptrtensor
print(sorted({heavy!r} & (set(sys.modules) - imported_by_torch)))
"""
    assert run_python(code) == "[]"
