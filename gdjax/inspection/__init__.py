"""What an optimizer does, before it does it: tables of its steps, its state and its rounding."""
