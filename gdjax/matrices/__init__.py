"""The matrices of a tree: which leaves they are, their blocks in stacks, and turns over steps."""
