"""The matrices of a tree: their blocks in stacks, and turns over steps."""
