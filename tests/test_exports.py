"""The public names: exactly these, each with its docstring."""

import importlib.resources
import inspect
from types import ModuleType

import pytest

import ptrtensor
from ptrtensor import errors

ERRORS = {
    "PtrTensorError",
    "WorkerMismatchError",
    "SpentPointerError",
    "ObjectNotFoundError",
    "RemoteOpError",
    "PermissionDeniedError",
    "IdentityError",
    "DatasetError",
    "AuditError",
    "PolicyError",
    "QuotaExceededError",
    "ProtocolError",
    "VersionMismatchError",
    "MessageTooLargeError",
    "WorkerLostError",
    "UnsupportedOpError",
}
PUBLIC = ERRORS | {
    "DataServer",
    "TorchHook",
    "VirtualWorker",
    "ProcessWorker",
    "ReleaseRequest",
    "RemoteWorker",
    "Worker",
    "local_worker",
    "send",
    "get",
    "move",
    "is_pointer",
    "PointerTensor",
    "synchronize",
    "profile",
    "errors",
}


def test_all_lists_the_public_names_once() -> None:
    assert sorted(ptrtensor.__all__) == sorted(PUBLIC)


def test_the_package_shows_no_other_name() -> None:
    shown = {
        name
        for name, value in vars(ptrtensor).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)  # the rooms are modules
    }
    assert shown == PUBLIC - {"errors"}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_classes_and_functions_say_what_they_are(name: str) -> None:
    value = getattr(ptrtensor, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__doc__, f"{name} has no docstring"


def test_the_error_classes_are_all_public() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert defined == ERRORS


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_error_has_one_root(name: str) -> None:
    error: type[Exception] = getattr(errors, name)
    assert issubclass(error, errors.PtrTensorError)
    assert getattr(ptrtensor, name) is error


def test_faults_of_the_protocol_are_one_family() -> None:
    assert issubclass(errors.VersionMismatchError, errors.ProtocolError)
    assert issubclass(errors.MessageTooLargeError, errors.ProtocolError)


def test_the_package_is_marked_as_typed() -> None:
    assert importlib.resources.files(ptrtensor).joinpath("py.typed").is_file()
