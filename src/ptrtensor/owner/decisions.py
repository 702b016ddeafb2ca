"""The owner decides with commands of his own; here it is written down what he decided."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from ptrtensor.errors import PtrTensorError
from ptrtensor.owner.requests import Requests

log: Final = logging.getLogger("ptrtensor.serve")

LOOK_SECONDS: Final = 1.0
"""How often is looked for decisions."""


def note_decisions(requests: Requests, write_down: Callable[..., None], stopping: threading.Event) -> None:
    """Until the server stops; `write_down` adds a line to the audit log."""
    while True:
        try:
            record_decisions(requests, write_down)
        except PtrTensorError as error:
            log.error("the owner's decisions cannot be read", extra={"reason": str(error)})
        if stopping.wait(LOOK_SECONDS):
            return


def record_decisions(requests: Requests, write_down: Callable[..., None]) -> None:
    """All that have no line yet, in their order.

    :raises PtrTensorError: they cannot be read.
    :raises AuditError: from `write_down`, if it cannot.
    """
    with requests.recording:
        for decided in requests.unrecorded():
            request = decided.request
            write_down(
                decided.outcome,
                request=request.id,
                session=request.session,
                client=request.client,
                object=request.object,
                objects=request.labels,
                operation=request.operation,
                tensor=request.tensor,
                bytes=request.size,
                decider=decided.decider,
                decided=decided.decided,
                answer=decided.answer,
            )
            requests.mark_recorded(decided)
