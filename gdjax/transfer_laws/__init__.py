"""An optimizer tuned on a small model, for a larger one, another batch or a longer run."""
