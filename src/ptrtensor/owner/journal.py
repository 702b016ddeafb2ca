"""What a server writes down: its audit log, and beside it the log that its owner watches."""

import logging
from collections.abc import Callable
from typing import Final

from ptrtensor.errors import AuditError
from ptrtensor.owner.audit import Audit, AuditClosedError
from ptrtensor.owner.hosted_session import Ended, HostedSession
from ptrtensor.wire.control import Publication

log: Final = logging.getLogger("ptrtensor.serve")

CANNOT_WRITE: Final = "the worker cannot write its audit log"


class Journal:
    """Of one server, which stops rather than acting unseen."""

    def __init__(self, audit: Audit | None, stop: Callable[[], object]) -> None:
        """`stop` is called once something could not be written."""
        self.broken: AuditError | None = None
        self._audit = audit
        self._stop = stop

    def record(self, event: str, **fields: object) -> None:
        """In the audit log, where there is one.

        :raises AuditError: it cannot be written.
        """
        if self._audit is not None:
            self._audit.record(event, **fields)

    def write_down(self, event: str, **fields: object) -> None:
        """What a session asked, or was given.

        :raises AuditError: it cannot be written, and the server stops.
        """
        log.info(event, extra=fields)
        try:
            self.record(event, **fields)
        except AuditError as error:
            self.break_off(error)
            raise

    def try_to_record(self, event: str, **fields: object) -> None:
        """From a thread that has nobody to tell that it cannot be written; the server stops."""
        try:
            self.record(event, **fields)
        except AuditError as error:
            self.break_off(error)

    def break_off(self, error: AuditError) -> None:
        if isinstance(error, AuditClosedError):
            log.warning("the server has stopped", extra={"reason": str(error)})
            return
        log.critical("the audit log cannot be written", extra={"reason": str(error)})
        self.broken = error
        self._stop()

    def publication(self, publication: Publication) -> None:
        """:raises AuditError: it cannot be written."""
        self.record(
            "published",
            object=publication.name,
            tags=publication.tags,
            private=publication.private,
            tensor=str(publication.meta),
            bytes=publication.meta.nbytes,
        )

    def session_began(self, session: HostedSession, where: str) -> None:
        """:raises AuditError: it cannot be written, and the session ends."""
        try:
            self.record(
                "session began",
                session=session.number,
                client=session.peer.name,
                fingerprint=session.peer.fingerprint,
                process=session.process.number,
                **{"from": where},
            )
        except AuditError:
            session.stop(CANNOT_WRITE)
            raise

    def session_ended(self, session: HostedSession, ended: Ended) -> None:
        fields = {
            "session": session.number,
            "client": session.peer.name,
            "reason": ended.reason or "its client left",
            "seconds": round(ended.seconds, 3),
        }
        log.info("session ended", extra=fields)
        self.try_to_record("session ended", **fields)
