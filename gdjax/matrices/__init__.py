"""The matrices of a tree: which leaves are which, their blocks in stacks, and what a step does for some of them."""
