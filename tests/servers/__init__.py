"""Servers that the tests start: real ones where they can be had, and the project's own for faults and latency."""
