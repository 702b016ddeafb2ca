"""What a peer may announce at most [P3]. Every length is checked against these before memory is reserved."""

from typing import Final

PROTOCOL_VERSION: Final = 1

NAMESPACES: Final = ("aten", "torch_nn")
"""Whose operations travel: torch's own, which both sides have [P5.5]."""

MAX_HELLO_BYTES: Final = 4 * 1024
"""A peer that has not said hello yet gets a few kilobytes of our memory, not more."""

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""The typed part of a message. Tensor values travel beside it."""

MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
"""The commands of one batch. A client mostly sends a few kilobytes at a time."""

MAX_PAYLOAD_BYTES: Final = 64 * 1024**3
"""The bytes of one tensor, which must also equal what its metadata says."""

MAX_INSTRUCTIONS: Final = 4096
"""Definitions that a worker keeps for one session; a client reuses their numbers."""

MAX_RESULTS: Final = 65536
"""Results of one command; as many names are reserved where the count depends on data."""

MAX_DIMENSIONS: Final = 64

MAX_RELEASE_BYTES: Final = 16 * 1024 * 1024
"""Of one value that is released on request: the worker's owner keeps it until it is collected."""

MAX_MOVED_BYTES: Final = 512 * 1024 * 1024
"""Of a value that moves to another owner's worker: it is encrypted as a whole."""

MAX_SEALED_BYTES: Final = MAX_MOVED_BYTES + 16 * 1024 * 1024
"""Of the same, sealed, with what belongs to it."""

MAX_LABELS: Final = 1000
MAX_LABEL_CHARACTERS: Final = 500
"""Of a value that moves to another owner's worker, which writes them down."""

MAX_ID_CHARACTERS: Final = 200
"""Of a worker: it stands in every error, and in the handshake, which has little room."""

MAX_REASON_CHARACTERS: Final = 2000
"""Of why a client asks for a release."""

MAX_REFUSAL_CHARACTERS: Final = 1000
"""Of why a client is refused: no more than fits a message of the handshake."""

MAX_FAILURES: Final = 64
"""Failures that one acknowledgement names; each has up to three texts, and all must fit a message."""

MAX_FAILURE_TEXT: Final = 16 * 1024
"""Characters kept of one failure's text."""
