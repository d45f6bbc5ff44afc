"""The parts of `examples/landscapes.py`."""
