"""Code that exists only for a compiler."""
