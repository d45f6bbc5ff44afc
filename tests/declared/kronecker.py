"""Shampoo, SOAP and their kin."""

import functools
from typing import Any, NamedTuple

import jax

import gdjax
from gdjax.linalg.matrices import Matrix
from tests.declare import Case, is_matrix, matrices


@gdjax.transform
def of_matrices(method: str, **numbers: Any) -> Any:
    """The direction of a method, for what is a matrix."""
    return gdjax.masked(getattr(gdjax, f"scale_by_{method}")(**numbers), matrices)


def matrices_by_rank(params: Any) -> Any:
    return jax.tree.map(lambda p: Matrix() if is_matrix(p) else None, params)


class OneSidedState(NamedTuple):
    count: Any
    mu: Any
    L: Any
    P: Any


@gdjax.matrixwise(OneSidedState, mu=gdjax.Block(), L=gdjax.Side(0), P=gdjax.Side(0, identity=True))
def _one_sided(G: Any, s: Any, p: Any, t: Any, b1: Any, b2: Any, k: Any = 2) -> Any:
    """One-sided Shampoo as a rule of one's own."""
    mu, L = b1 * s.mu + (1 - b1) * G, b2 * s.L + (1 - b2) * G @ G.mT.conj()
    (P,) = gdjax.in_turns(lambda first, P, L: [gdjax.inverse_root(L, 2, 1e-3)], k)([s.P], L)
    return P @ mu, s._replace(mu=mu, L=L, P=P)


@gdjax.transform
def _own(b1: Any, b2: Any, precondition_frequency: int) -> Any:
    return gdjax.masked(_one_sided(b1, b2, precondition_frequency), matrices)


_SOAP = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.9, "shampoo_beta": 0.9, "eps": 1e-8, "weight_decay": 1e-2}
_SHAMPOO = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.9, "eps": 1e-3, "root": 4.0, "grafting_b2": 0.9,
            "grafting_eps": 1e-8, "weight_decay": 1e-2}  # fmt: skip
_IN_TWO = {"precondition_frequency": 2}
_FEW = {**_IN_TWO, "roles": matrices_by_rank}
_soap_part, _kl_soap_part, _kl_shampoo_part, _soap_muon_part, _shampoo_part = (
    functools.partial(of_matrices, name) for name in "soap kl_soap kl_shampoo soap_muon shampoo".split()
)
_STILL = {"weight_decay": 0.0}

CASES = (
    Case("matrixwise", _own, {"b1": 0.9, "b2": 0.9}, _IN_TWO),
    Case("soap", gdjax.soap, _SOAP, _FEW, quiet=_STILL, needs_params=True),
    Case("soap/eigh", gdjax.soap, _SOAP, {**_FEW, "refresh": "eigh", "sides": "short", "block_size": 2}, quiet=_STILL,
         needs_params=True, slow=True),
    Case("scale_by_soap", _soap_part, {"b1": 0.9, "b2": 0.9, "eps": 1e-8}, _IN_TWO, slow=True),
    Case("kl_soap", gdjax.kl_soap, _SOAP, _FEW, quiet=_STILL, needs_params=True, slow=True),
    Case("scale_by_kl_soap", _kl_soap_part, {"b1": 0.9, "b2": 0.9, "eps": 1e-8}, _IN_TWO, slow=True),
    Case("kl_shampoo", gdjax.kl_shampoo, {k: x for k, x in _SOAP.items() if k != "b2"}, _FEW, quiet=_STILL,
         needs_params=True),
    Case("scale_by_kl_shampoo", _kl_shampoo_part, {"b1": 0.9, "shampoo_beta": 0.9, "eps": 1e-8}, _IN_TWO, slow=True),
    Case("soap_muon", gdjax.soap_muon, {"beta" if k == "b1" else k: x for k, x in _SOAP.items()}, _FEW, quiet=_STILL,
         needs_params=True),
    Case("scale_by_soap_muon", _soap_muon_part, {"beta": 0.9, "b2": 0.9, "eps": 1e-8}, _IN_TWO, slow=True),
    Case("shampoo", gdjax.shampoo, _SHAMPOO, _FEW, quiet=_STILL, needs_params=True),
    Case("shampoo/qr", gdjax.shampoo, _SHAMPOO,
         {**_FEW, "root_method": "qr", "grafting": "sgd", "block_size": 2, "nesterov": True}, quiet=_STILL,
         needs_params=True, slow=True),
    Case("shampoo/newton", gdjax.shampoo, {k: x for k, x in _SHAMPOO.items() if k != "root"},
         {**_FEW, "root_method": "newton", "grafting": None, "sides": "rows"}, quiet=_STILL, needs_params=True,
         reverse=False, slow=True),
    Case("scale_by_shampoo", _shampoo_part, {"b1": 0.9, "b2": 0.9, "eps": 1e-2}, _IN_TWO, slow=True),
)  # fmt: skip
TWINS = ()
