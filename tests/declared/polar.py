"""The relatives of Muon."""

from typing import Any

import jax

import gdjax
from gdjax.linalg.matrices import Matrix
from tests.declare import Case, is_matrix


@gdjax.transform
def _part(tx: Any) -> Any:
    return gdjax.masked(tx, lambda tree: jax.tree.map(is_matrix, tree))


def _part_of(factory: Any, **fixed: Any) -> Any:
    """A direction for what has two axes; the rest as it is."""
    return lambda **numbers: _part(factory(**numbers, roles=_first_two, **fixed))


def _first_two(tree: Any) -> Any:
    return Matrix(0, 1)


_RATES = {"learning_rate": 0.1, "weight_decay": 1e-2}
_STILL = {"weight_decay": 0.0}

CASES = (
    Case("normuon", gdjax.normuon, {**_RATES, "b1": 0.9, "b2": 0.9, "eps": 1e-8, "consistent_rms": 0.2},
         {"ns_steps": 3}, quiet=_STILL, needs_params=True),
    Case("normuon/code", gdjax.normuon, {**_RATES, "b1": 0.9, "b2": 0.9, "eps": 1e-8},
         {"consistent_rms": None, "ns_coeffs": "jordan", "equilibrate": "outputs", "renormalize": "frobenius",
          "nesterov": False}, quiet=_STILL, needs_params=True, slow=True),
    Case("muown", gdjax.muown, {**_RATES, "b1": 0.9, "eps": 1e-8, "consistent_rms": 0.2}, {"ns_steps": 3}, quiet=_STILL,
         needs_params=True),
    Case("scale_by_normuon", _part_of(gdjax.scale_by_normuon, ns_steps=2), {"b1": 0.9, "b2": 0.9, "eps": 1e-8},
         slow=True),
    Case("scion", gdjax.scion, {"learning_rate": 0.1, "alpha": 0.2, "radius": 2.0, "other_radius": 1.0, "eps": 1e-8},
         {"constrained": False, "ns_steps": 3}),
    Case("scion/constrained", gdjax.scion, {"learning_rate": 0.1, "alpha": 0.2, "radius": 2.0},
         {"ns_steps": 3}, quiet={"learning_rate": 0.0}, needs_params=True, slow=True),
    Case("scale_by_scion", gdjax.scale_by_scion, {"alpha": 0.2}, {"norm": "rms"}, slow=True),
    Case("dion", gdjax.dion, {**_RATES, "mu": 0.9, "eps": 1e-8}, {"rank_fraction": 0.5}, quiet=_STILL,
         needs_params=True, random=True),
    Case("scale_by_dion", _part_of(gdjax.scale_by_dion), {"mu": 0.9, "eps": 1e-8}, random=True, slow=True),
    Case("dion2", gdjax.dion2, {**_RATES, "ef_decay": 0.9, "eps": 1e-8}, {"fraction": 0.5, "ns_steps": 3},
         quiet=_STILL, needs_params=True),
    Case("scale_by_dion2", _part_of(gdjax.scale_by_dion2, ns_steps=2), {"ef_decay": 0.9, "eps": 1e-8}, slow=True),
)  # fmt: skip
TWINS = ()
