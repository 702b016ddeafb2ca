"""Benchmarks: `make bench`. Every system runs in a process of its own, and their rounds are interleaved."""
