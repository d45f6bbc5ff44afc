"""Builds what tests/resume/test_resume.py builds: equal calls in another module."""

from typing import Any

import jax

import gdjax
from tests.declare import is_matrix, matrices


def optimizer(mask: Any = matrices) -> Any:
    return gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(0.1, weight_decay=0.01, mask=mask))


def own_mask(tree: Any) -> Any:
    return jax.tree.map(is_matrix, tree)
