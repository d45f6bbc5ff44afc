"""Looking into an optimizer and its state: metrics, parts of states, states for other optimizers."""
