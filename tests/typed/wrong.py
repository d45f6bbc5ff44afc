# pyright: reportUnnecessaryTypeIgnoreComment=true
"""Mistakes that a type checker finds: where it finds none, the comment that expects one is itself an error."""

import gdjax

gdjax.adamw("1e-3")  # pyright: ignore[reportArgumentType]
gdjax.sgd(0.1, momentum="0.9")  # pyright: ignore[reportArgumentType]
gdjax.lion([1e-3])  # pyright: ignore[reportArgumentType]
gdjax.chain(gdjax.adam)  # pyright: ignore[reportArgumentType]
gdjax.chain(gdjax.clip(1.0), 0.1)  # pyright: ignore[reportArgumentType]
rate = gdjax.adam(1e-3).learning_rate  # pyright: ignore[reportAttributeAccessIssue]
