"""The parts of `examples/train_lm.py`: text, model, checkpoint and picture."""
