"""Which leaf of a tree is what: by the names of leaves, by their shapes, and by the leaves around them."""
