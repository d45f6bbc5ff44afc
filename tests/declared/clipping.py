"""Clipping, norms, constraints, complex numbers and gradients of single examples."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp

import gdjax
from tests.declare import Case, Twin


def _one_example(tree: Any, params: Any) -> Any:
    """Every gradient as that of the only example of a batch."""
    return jax.tree.map(lambda g: jnp.asarray(g)[None], tree)


def _private(l2_norm_clip: Any, noise_multiplier: Any, key: Any) -> Any:
    return gdjax.chain(
        gdjax.stateless(_one_example), gdjax.differentially_private_aggregate(l2_norm_clip, noise_multiplier, key)
    )


def _dpsgd(learning_rate: Any, l2_norm_clip: Any, noise_multiplier: Any, momentum: Any, seed: Any) -> Any:
    private = gdjax.dpsgd(learning_rate, l2_norm_clip, noise_multiplier, seed, momentum)
    return gdjax.chain(gdjax.stateless(_one_example), private)


def _split(learning_rate: Any, b2: Any) -> Any:
    return gdjax.split_real_and_imaginary(gdjax.adam(learning_rate, b2=b2))


_PRIVATE = {"l2_norm_clip": 0.5, "noise_multiplier": 0.1}
_QUIET = {"noise_multiplier": 0.0}

CASES = (
    Case("adaptive_grad_clip", gdjax.adaptive_grad_clip, {"clipping": 0.1, "eps": 1e-3}, needs_params=True),
    Case("centralize", gdjax.centralize),
    Case("centralize/last", gdjax.centralize, fixed={"output_axis": -1}, slow=True),
    Case("clip_by_block_rms", gdjax.clip_by_block_rms, {"threshold": 0.5}),
    Case("clip_by_global_norm/groups", gdjax.clip_by_global_norm, {"max_norm": 0.5}, {"groups": {".*": 0}}, slow=True),
    Case("differentially_private_aggregate", _private, _PRIVATE, {"key": 0}, quiet=_QUIET, random=True,
         scheduled=False),
    Case("dpsgd", _dpsgd, {"learning_rate": 0.1, "momentum": 0.9, **_PRIVATE}, {"seed": 0}, quiet=_QUIET, random=True,
         scheduled=False, slow=True),
    Case("keep_params_nonnegative", gdjax.keep_params_nonnegative, needs_params=True, complex=False),
    Case("normalize", gdjax.normalize),
    Case("split_real_and_imaginary", _split, {"learning_rate": 0.1, "b2": 0.99}),
    Case("zclip", gdjax.zclip, {"z_thresh": 2.5, "alpha": 0.97, "max_norm": 1.0}, {"warmup_steps": 2}),
    Case("zero_nans", gdjax.zero_nans),
)  # fmt: skip


class Batch:
    """Five numbers for every parameter, as if they were the gradients of five examples."""

    def __init__(self, tx: Any):
        self.init = tx.init
        self.inner = tx

    def update(self, updates: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            weights = jnp.array([-1.0, 0.1, 0.5, 2.0, 3.0])
            batch = jax.tree.map(lambda g: jnp.stack([w.astype(g.dtype) * g for w in weights]), updates)
        return self.inner.update(batch, state, params)


def _dpsgd_of(lib: Any, *args: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Optax warns of its own use of `seed`
        return Batch(lib.contrib.dpsgd(0.1, 2.0, 0.5, 3, *args))


TWINS = (
    Twin("clip", lambda lib: lib.chain(lib.clip(0.5), lib.sgd(0.1))),
    Twin("clip_by_global_norm", lambda lib: lib.chain(lib.clip_by_global_norm(1.0), lib.sgd(0.1))),
    Twin("clip_by_block_rms", lambda lib: lib.chain(lib.clip_by_block_rms(0.5), lib.sgd(0.1))),
    Twin(
        "adaptive_grad_clip",
        lambda lib: lib.chain(lib.adaptive_grad_clip(0.2), lib.sgd(0.1)),
        shapes=(
            ("matrix", (4, 3)), ("vector", (5,)), ("scalar", ()), ("heads", (2, 3, 2)), ("row", (1, 4)),
            ("conv", (2, 2, 3, 2)), ("conv3", (1, 2, 2, 2, 3)),
        ),
    ),  # fmt: skip
    Twin("adaptive_grad_clip/axis", lambda lib: lib.chain(lib.adaptive_grad_clip(0.2, 0.1, 1), lib.sgd(0.1)),
         shapes=(("matrix", (4, 3)), ("cube", (2, 3, 2)))),
    Twin("centralize", lambda lib: lib.chain(lib.centralize(), lib.sgd(0.1)),
         shapes=(("matrix", (4, 3)), ("vector", (5,)), ("cube", (2, 3, 2)))),
    Twin("zero_nans", lambda lib: lib.chain(lib.zero_nans(), lib.sgd(0.1))),
    Twin("keep_params_nonnegative", lambda lib: lib.chain(lib.sgd(0.1), lib.keep_params_nonnegative())),
    Twin("normalize", lambda lib: lib.chain(lib.contrib.normalize(), lib.sgd(0.1))),
    Twin("split_real_and_imaginary", lambda lib: lib.contrib.split_real_and_imaginary(lib.adam(0.1))),
    Twin("differentially_private_aggregate",
         lambda lib: lib.chain(Batch(lib.contrib.differentially_private_aggregate(2.0, 0.5, 3)), lib.sgd(0.1))),
    Twin("dpsgd", _dpsgd_of),
    Twin("dpsgd/momentum", lambda lib: _dpsgd_of(lib, 0.9, True)),
)  # fmt: skip
