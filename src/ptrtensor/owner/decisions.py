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
            for request in requests.unrecorded():
                write_down(
                    request.status if request.status != "collected" else "approved",
                    request=request.id,
                    session=request.session,
                    client=request.client,
                    object=request.object,
                    objects=request.labels,
                    operation=request.operation,
                    tensor=request.tensor,
                    bytes=request.size,
                    decider=request.decider,
                    decided=request.decided,
                    answer=request.answer,
                )
                requests.mark_recorded(request)
        except PtrTensorError as error:
            log.error("the owner's decisions cannot be read", extra={"reason": str(error)})
        if stopping.wait(LOOK_SECONDS):
            return
