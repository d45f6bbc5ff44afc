"""A whole run: the loop, its report, and checks of gradients."""
