"""Processes on this machine for `examples/multihost.py`, and the picture of what they did."""
