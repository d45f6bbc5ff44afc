"""The parts of `examples/gallery.py`."""
