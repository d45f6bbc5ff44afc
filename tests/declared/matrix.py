"""Methods for matrices, and Sophia."""

from typing import Any

import jax
import jax.numpy as jnp

import gdjax
from gdjax.numerics import widen, widest_real
from tests.declare import Case, Twin, is_matrix, supplied


def bowl(params: Any) -> Any:
    """A loss of any tree, whose Hessian is diagonal but for one product."""
    xs = jax.tree.leaves(params)
    xs = widen(xs, widest_real(xs))
    total: Any = sum(jnp.sum(x**2 / 2 - jnp.cos(2 * x) / 4) for x in xs)
    return total + sum(jnp.sum(x) for x in xs) ** 2 / 8 if xs else jnp.zeros(())


def _sophia(learning_rate: Any, b1: Any, b2: Any, eps: Any, gamma: Any, weight_decay: Any, **fixed: Any) -> Any:
    tx = gdjax.sophia(learning_rate, b1, b2, eps, weight_decay=weight_decay, gamma=gamma, update_interval=2, **fixed)
    return supplied(tx, obj_fn=bowl)


def _scale_by_sophia(b1: Any, newest: bool) -> Any:
    return supplied(gdjax.scale_by_sophia(b1, newest=newest), obj_fn=bowl)


def _hutchinson(random_seed: Any) -> Any:
    return gdjax.chain(supplied(gdjax.hutchinson_estimator_diag_hessian(random_seed), obj_fn=bowl), gdjax.scale(0.0))


def matrices_only(params: Any) -> Any:
    """Dimension numbers: of two axes or more, the first two."""
    return jax.tree.map(lambda p: gdjax.MuonDimensionNumbers() if is_matrix(p) else None, params)


@gdjax.transform
def _muon_part(beta: Any, eps: Any) -> Any:
    return gdjax.masked(gdjax.scale_by_muon(beta=beta, eps=eps), lambda tree: jax.tree.map(is_matrix, tree))


@gdjax.transform
def _psgd_part(b1: Any, preconditioner_update_probability: Any, precond_lr: Any) -> Any:
    part = gdjax.scale_by_psgd_kron(b1, preconditioner_update_probability, precond_lr, memory_save_mode="all_diag")
    return gdjax.masked(part, lambda tree: jax.tree.map(is_matrix, tree))


@gdjax.transform
def _apollo_part(b1: Any, b2: Any) -> Any:
    return gdjax.masked(gdjax.scale_by_apollo(2, b1=b1, b2=b2), lambda tree: jax.tree.map(is_matrix, tree))


_MUON = {"learning_rate": 0.1, "beta": 0.9, "eps": 1e-8, "weight_decay": 1e-2, "adam_weight_decay": 1e-2}
_PSGD = {"learning_rate": 0.1, "b1": 0.9, "preconditioner_update_probability": 0.5, "precond_lr": 0.1,
         "precond_init_scale": 1.0, "beta_lip": 0.9, "damping": 1e-9, "max_update_rms": 1.1,
         "weight_decay": 1e-2}  # fmt: skip
_STILL = {"weight_decay": 0.0}
_MUON_STILL = {**_STILL, "adam_weight_decay": 0.0}
_SOPHIA = {"learning_rate": 0.1, "b1": 0.9, "b2": 0.9, "eps": 1e-8, "gamma": 0.5, "weight_decay": 1e-2}

CASES = (
    Case("galore", gdjax.galore, {"learning_rate": 0.1, "scale": 0.5, "weight_decay": 1e-2},
         {"rank": 1, "update_proj_gap": 2}, quiet={"weight_decay": 0.0}, needs_params=True),
    Case("scale_by_galore", gdjax.scale_by_galore, {"scale": 0.5}, {"rank": 2, "update_proj_gap": 2, "side": "short"},
         slow=True),
    Case("adam_mini", gdjax.adam_mini, {"learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 1e-2},
         {"roles": matrices_only}, quiet={"weight_decay": 0.0}, needs_params=True),
    Case("scale_by_adam_mini", gdjax.scale_by_adam_mini, {"b1": 0.9, "b2": 0.99, "eps": 1e-8},
         {"roles": matrices_only}, slow=True),
    Case("apollo", gdjax.apollo,
         {"learning_rate": 0.1, "scale": 2.0, "b1": 0.9, "b2": 0.99, "eps": 1e-6, "norm_growth": 4.0,
          "weight_decay": 1e-2},
         {"rank": 2, "update_proj_gap": 2, "roles": matrices_only}, quiet=_STILL, needs_params=True,
         random=True),
    Case("apollo/tensor", gdjax.apollo, {"learning_rate": 0.1, "scale": 128.0},
         {"rank": 1, "scale_type": "tensor", "roles": matrices_only}, random=True, slow=True),
    Case("scale_by_apollo", _apollo_part, {"b1": 0.9, "b2": 0.99}, random=True, slow=True),
    Case("muon", gdjax.muon, _MUON, quiet=_MUON_STILL, needs_params=True),
    Case("muon/schatten", gdjax.muon, {**_MUON, "consistent_rms": 0.2},
         {"preconditioning": "schatten", "ns_coeffs": "dion", "adaptive": True, "nesterov": False}, quiet=_MUON_STILL,
         needs_params=True, slow=True),
    Case("muon/spectral", gdjax.muon, _MUON, {"preconditioning": "spectral", "bias_correction": False},
         quiet=_MUON_STILL, needs_params=True, slow=True),
    Case("muon/aol", gdjax.muon, _MUON,
         {"preconditioning": "aol", "muon_weight_dimension_numbers": matrices_only, "ns_steps": 4}, quiet=_MUON_STILL,
         needs_params=True, slow=True),
    Case("scale_by_muon", _muon_part, {"beta": 0.9, "eps": 1e-8}, slow=True),
    Case("psgd_kron", gdjax.psgd_kron, _PSGD, {"dQ": "QUAD", "memory_save_mode": "one_diag"}, quiet=_STILL,
         needs_params=True, random=True),
    Case("psgd_kron/procrustes", gdjax.psgd_kron, _PSGD, {"momentum_into_precond_update": False}, quiet=_STILL,
         needs_params=True, random=True, slow=True),
    Case("psgd_kron/triangular", gdjax.psgd_kron, _PSGD, {"dQ": "EQ", "normalize_grads": True}, quiet=_STILL,
         needs_params=True, random=True, slow=True),
    Case("scale_by_psgd_kron", _psgd_part, {"b1": 0.9, "preconditioner_update_probability": 0.5, "precond_lr": 0.1},
         random=True, slow=True),
    Case("sophia", _sophia, _SOPHIA, quiet={"weight_decay": 0.0}, needs_params=True, complex=False),
    Case("scale_by_sophia", _scale_by_sophia, {"b1": 0.9}, {"newest": True}, needs_params=True, complex=False,
         slow=True),
    Case("transformer_optimizer", gdjax.transformer_optimizer, {"learning_rate": 0.1, "weight_decay": 1e-2},
         {"steps": 100, "warmup_steps": 1}, quiet={"weight_decay": 0.0}, needs_params=True, scheduled=False),
    Case("hutchinson_estimator_diag_hessian", _hutchinson, fixed={"random_seed": 0}, needs_params=True, complex=False),
)  # fmt: skip


def numbers(reduction: Any, output: Any) -> Any:
    """From the library to dimension numbers for the cube, none for the rest."""

    def of(lib: Any) -> Any:
        return lambda tree: {k: lib(reduction, output) if k == "cube" else None for k in tree}

    return of


def _muon(**kwargs: Any) -> Any:
    return lambda lib: lib.contrib.muon(0.1, **kwargs)


def _cubes(lib: Any) -> Any:
    spec = numbers((0, -1), 1)(lib.contrib.MuonDimensionNumbers)
    return lib.contrib.muon(0.1, muon_weight_dimension_numbers=spec, consistent_rms=0.2, weight_decay=0.1)


def _batches(lib: Any) -> Any:
    return lib.contrib.muon(0.1, muon_weight_dimension_numbers={"cube": lib.contrib.MuonDimensionNumbers(2, 1)})


def _each(lib: Any) -> Any:
    spec = lib.contrib.MuonDimensionNumbers()
    tx = lib.contrib.scale_by_muon(weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: spec, tree))
    return lib.chain(tx, lib.scale(-0.1))


def _galore_cube(lib: Any) -> Any:
    spec = numbers(0, (1, 2))(lib.contrib.GaLoreDimensionNumbers)
    return lib.contrib.galore(0.1, rank=2, update_proj_gap=100, weight_dimension_numbers=spec)


def _with_loss(make: Any) -> Any:
    return lambda lib: supplied(make(lib), obj_fn=bowl)


_SHAPES = (("tall", (4, 3)), ("wide", (3, 4)), ("flat", (2, 5)), ("vector", (5,)), ("scalar", ()))
_CUBE = (("cube", (2, 3, 4)), ("matrix", (4, 3)))

# Optax computes GaLore's singular vectors in float32 for float64 too; rounding turns those of close singular values.
_SINGULAR = {"rtol": 1e-4, "rtol64": 1e-4}

TWINS = (
    Twin("muon", _muon(weight_decay=0.1), shapes=_SHAPES),
    Twin("muon/dion", _muon(ns_coeffs="dion", mu_dtype="float32"), rtol64=1e-6),  # mu is rounded to float32
    Twin("muon/coefficients", _muon(ns_coeffs=((3.0, -3.0, 1.0), (2.0, -1.5, 0.5), (1.875, -1.25, 0.375)))),
    Twin("muon/spectral", _muon(preconditioning="spectral", nesterov=False)),
    Twin("muon/aol", _muon(preconditioning="aol", ns_steps=4), shapes=_SHAPES),
    Twin("muon/schatten", _muon(preconditioning="schatten", adam_learning_rate=0.05)),
    # Five steps of Newton-Schulz multiply a rounding of a small singular value by up to 3.4^5: 3e-5, with JAX 0.5.
    Twin("muon/adaptive", _muon(adaptive=True, weight_decay=0.1, weight_decay_mask={"matrix": True, "vector": False,
                                                                               "scalar": False}), rtol=5e-5),
    Twin("muon/cube", _cubes, shapes=_CUBE),
    Twin("muon/batch", _batches, shapes=_CUBE[:1]),
    Twin("scale_by_muon", _each, shapes=_SHAPES[:3]),
    Twin("galore", lambda lib: lib.contrib.galore(0.1, rank=2, update_proj_gap=10, weight_decay=0.01),
         shapes=_SHAPES[:3], **_SINGULAR),
    Twin("galore/vectors", lambda lib: lib.contrib.galore(0.1, rank=2, update_proj_gap=100), shapes=_SHAPES,
         reset="where nothing is projected Optax keeps an array of shape (0, 0), which Orbax cannot save", **_SINGULAR),
    Twin("galore/scale", lambda lib: lib.contrib.galore(0.1, 1, 100, 0.25, lib.trace(0.9)),
         shapes=_SHAPES[:3], **_SINGULAR),
    Twin("galore/cube", _galore_cube, shapes=_CUBE[:1], **_SINGULAR),
    Twin("scale_by_galore", lambda lib: lib.chain(lib.contrib.scale_by_galore(2, 25), lib.scale(-0.1)),
         shapes=_SHAPES[:3], **_SINGULAR),
    Twin("sophia", _with_loss(lambda lib: lib.contrib.sophia(0.1, gamma=0.5))),
    Twin("sophia/interval", _with_loss(lambda lib: lib.contrib.sophia(
        0.1, b1=0.9, b2=0.8, weight_decay=0.1, weight_decay_mask=lambda tree: jax.tree.map(is_matrix, tree), gamma=0.1,
        clip_threshold=0.5, update_interval=3,
        hessian_diagonal_fn=lib.contrib.hutchinson_estimator_diag_hessian(jax.random.key(4))))),
    Twin("sophia/unclipped", _with_loss(lambda lib: lib.contrib.sophia(0.1, eps=1.0, clip_threshold=None))),
    Twin("hutchinson_estimator_diag_hessian", _with_loss(
        lambda lib: lib.chain(lib.contrib.hutchinson_estimator_diag_hessian(), lib.scale(-0.01)))),
)  # fmt: skip
