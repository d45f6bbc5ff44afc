"""What an optimizer does, before it does it and while it does: tables of its steps, metrics, states."""
