"""Transports move messages between a client and a worker: in this process, or as bytes over a socket.

They know nothing of tensors; a payload is a buffer.
"""
