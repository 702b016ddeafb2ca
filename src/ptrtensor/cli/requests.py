"""`ptrtensor requests`: what clients ask to be released, and the owner's decisions."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import torch
import typer

from ptrtensor._torch.memory import tensor_of
from ptrtensor.cli.output import named_errors, printable
from ptrtensor.cli.paths import path
from ptrtensor.owner.requests import Decision, Request, Requests
from ptrtensor.owner.state import State

app = typer.Typer(no_args_is_help=True, help="What clients ask to be released, and what you say to it.")

StateFile = Annotated[
    Path, typer.Option("--state", parser=path, help="The file that `serve --state` keeps.", metavar="FILE")
]
Id = Annotated[str, typer.Argument(help="Of the request, as `list` shows it.", metavar="ID")]
Answer = Annotated[str, typer.Option(help="A word to whoever asked.", metavar="TEXT")]

STATE = Path("state.sqlite")

SHOWN_ELEMENTS: Final = 1000
"""Of larger tensors torch prints the edges."""


@app.command("list")
def list_requests(
    state: StateFile = STATE,
    all: Annotated[bool, typer.Option("--all", help="Also those that are decided.")] = False,
) -> None:
    """List the requests that wait for you, the latest first."""
    with named_errors():
        for request in opened(state).all(pending=not all):
            typer.echo(
                f"{request.id}  {request.asked}  {request.status:9}  {printable(request.client)}: {request.tensor} "
                f"of {printable(', '.join(request.labels))}: {printable(request.reason)}"
            )


@app.command("show")
def show(id: Id, state: StateFile = STATE) -> None:
    """Show a request, with the value that would be released."""
    with named_errors():
        request = opened(state).find(id)
        lines = {
            "request": request.id,
            "status": request.status,
            "asked": f"{request.asked} by {request.client} ({request.fingerprint}), session {request.session}",
            "reason": request.reason,
            "computed from": ", ".join(request.labels),
            "decided": f"{request.decided} by {request.decider}" if request.decided else "",
            "answer": request.answer,
            "made by": request.operation,
            "is": request.tensor,
            "beware": omission(request),
        }
        for name, text in lines.items():
            if text:
                typer.echo(f"{name + ':':15}{printable(text)}")
        typer.echo(f"{'value:':15}{value_of(request)}")


@app.command("approve")
def approve(id: Id, state: StateFile = STATE, answer: Answer = "") -> None:
    """Release this very value, to the client that asked and once."""
    decide(state, id, "approved", answer)


@app.command("deny")
def deny(id: Id, state: StateFile = STATE, answer: Answer = "") -> None:
    """Do not release it."""
    decide(state, id, "denied", answer)


@app.command("revoke")
def revoke(id: Id, state: StateFile = STATE) -> None:
    """Take an approval back, as long as the value was not collected."""
    with named_errors():
        opened(state).revoke(id)
        typer.echo(f"request {id} is not approved any more")


def decide(state: Path, id: str, decision: Decision, answer: str) -> None:
    with named_errors():
        request = opened(state).decide(id, decision, answer)
        typer.echo(f"{decision}: {request.tensor} for {printable(request.client)}")


def opened(path: Path) -> Requests:
    """:raises PtrTensorError: there is no such state."""
    return Requests(State(path, make=False))


def value_of(request: Request) -> str:
    """As torch prints it."""
    if request.meta is None:
        return printable(request.failure)
    if len(request.value) != request.meta.nbytes:
        return "kept no longer"
    tensor = tensor_of(request.meta, memoryview(bytearray(request.value)))
    with exact_printing(tensor.dtype):
        return str(tensor)


@contextlib.contextmanager
def exact_printing(dtype: torch.dtype) -> Iterator[None]:
    """Every digit that makes a difference: what is not seen leaves, too. Below 1e-4 torch prints powers of ten."""
    if not dtype.is_floating_point and not dtype.is_complex:
        yield
        return
    torch.set_printoptions(precision=4 + math.ceil(1 - math.log10(torch.finfo(dtype).eps / 2)))
    try:
        yield
    finally:
        torch.set_printoptions(profile="default")


def omission(request: Request) -> str:
    """What torch does not print of it, so that nobody believes that he has seen it all."""
    if request.meta is None or request.meta.elements <= SHOWN_ELEMENTS:
        return ""
    return f"only some of its {request.meta.elements} elements are shown"
