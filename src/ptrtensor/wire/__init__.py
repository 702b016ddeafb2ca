"""The protocol as pure objects: messages, instructions and a connection that turns bytes into events.

No torch, no sockets. `docs/reference/protocol.md` is the specification; its paragraphs are cited as [P1.2].
"""
