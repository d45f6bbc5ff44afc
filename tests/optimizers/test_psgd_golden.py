"""PSGD-Kron against its authors' code (psgd_torch) and pytorch_optimizer's Kron, with the random numbers they drew."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg import whitening
from tests.golden_matrices import FILE, compare


def mean_till(beta: float) -> Any:
    """The decay of psgd_torch's momentum, by the number of steps made: a plain mean till it reaches beta."""
    return lambda count: jnp.minimum(1 - 1 / (count.astype(float) + 1), beta)


def authors(b1: float = 0.0, **settings: Any) -> Any:
    """psgd_torch's step. Its momentum has no factor 1 / (1 - b1^t): where Q whitens gradients, the rate takes it away.

    Its limits of an update are not reached in these runs.
    """
    decay = mean_till(b1)
    rate = lambda count: 0.02 * (1 - decay(count) ** (count.astype(float) + 1))
    return gdjax.psgd_kron(rate, decay, 1.0, momentum_into_precond_update=False, max_update_rms=1e9, **settings)


def of_pytorch_optimizer(**settings: Any) -> Any:
    """Kron's step; it has no running maximum of Lipschitz constants, and no noise but B's."""
    return gdjax.psgd_kron(0.02, 0.9, 1.0, dQ="EQ", beta_lip=0.0, damping=0.0, **settings)


def exact_norm(a: Any, vectors: Any) -> Any:
    return jnp.linalg.norm(a, 2)


def simple_norm(a: Any, vectors: Any) -> Any:
    """pytorch_optimizer's lower bound of the norm of a symmetric matrix, from its largest row."""
    y = a[jnp.argmax(jnp.sum(a * a, 1))] @ a
    return jnp.linalg.norm(y / jnp.linalg.norm(y) @ a)


def drawn(run: str, leaf: str) -> Any:
    """A `whitening._normals` that hands out what a run drew, as (noise, vectors of the left, of the right) of a step.

    A step is known by the key that gdjax makes for it from the key 0. Those of a rotation, which in psgd_torch has its
    own vectors, are left out: the norm only counts where the rotation is the largest, which it never is in these runs.
    """
    with np.load(FILE) as file:
        noise, vectors = (file.get(f"{run}/{leaf}:{kind}") for kind in ("probe", "subspace"))
        steps = len(file[f"problem/{leaf}/noise"])
    keys = [jax.random.split(jax.random.fold_in(jax.random.key(0), t), 1)[0] for t in range(1, steps + 1)]
    keys = jax.random.key_data(jnp.stack(keys))
    vectors = None if vectors is None else vectors.reshape(steps, 2, -1, vectors.shape[-1])[:, :, :32]

    def normals(key: Any, shapes: Any, dtype: Any) -> Any:
        found = jnp.all(keys == jax.random.key_data(key)[None], 1)
        pick = lambda xs: jnp.where(jnp.any(found), jnp.asarray(xs)[jnp.argmax(found)], jnp.nan)
        v = jnp.zeros(shapes[0], dtype) if noise is None else pick(noise)
        return [v, *(map(jnp.zeros, shapes[1:]) if vectors is None else pick(vectors))]

    return normals


RUNS = {
    "authors_quad": authors(dQ="QUAD"),
    "authors_q05eq15": authors(dQ="Q0.5EQ1.5"),
    "authors_eq": authors(dQ="EQ"),
    "authors_quad_momentum": authors(0.9, dQ="QUAD", precond_lr=0.3),
    "authors_quad_whiten_momentum": gdjax.chain(gdjax.ema(mean_till(0.9), debias=False), authors(dQ="QUAD")),
    "authors_q05eq15_momentum": authors(0.9, dQ="Q0.5EQ1.5"),
    "authors_eq_momentum": authors(0.9, dQ="EQ"),
    "authors_quad_diagonal": authors(dQ="QUAD", max_size_triangular=5),
    "authors_q05eq15_diagonal": authors(dQ="Q0.5EQ1.5", max_size_triangular=5),
    "authors_eq_diagonal": authors(dQ="EQ", max_size_triangular=5),
    "authors_quad_estimate": authors(dQ="QUAD"),
    "authors_q05eq15_estimate": authors(dQ="Q0.5EQ1.5"),
    "pytorch_optimizer": of_pytorch_optimizer(),
    "pytorch_optimizer_grad": of_pytorch_optimizer(momentum_into_precond_update=False, weight_decay=0.1),
    "pytorch_optimizer_one_diag": of_pytorch_optimizer(memory_save_mode="one_diag"),
}
LEFT_OUT = {
    "authors_qeq": "gdjax does not have this form",
    "authors_qep": "gdjax does not have this form",
    "authors_quad_after": "it moves x before Q, gdjax Q before x",
}


def cases() -> list[Any]:
    """All runs in the file, and their leaves; `make test` has one leaf of each."""
    if not FILE.is_file():
        return []
    with np.load(FILE) as file:
        names = [name.split("/")[1:] for name in file if name.startswith("psgd_kron/") and ":" not in name]
    runs = [(run, leaf) for run, leaf in names if run not in LEFT_OUT]
    alone = {run for run in RUNS if (run, "wide") not in runs}
    return [pytest.param(*x, marks=[] if x[1] == "wide" or x[0] in alone else [pytest.mark.slow]) for x in runs]


@pytest.fixture(scope="module", autouse=True)
def no_trace_of_what_is_replaced():
    """Is left to other modules, nor taken from them. In this one a test that met an old one would fail."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize(("run", "leaf"), cases())
def test_a_run_of_others(run, leaf, monkeypatch):
    estimate = run.endswith("estimate")  # 3e-5 away from the run with exact norms
    if not estimate:
        monkeypatch.setattr(whitening, "norm_bound", simple_norm if run.startswith("pytorch") else exact_norm)
    monkeypatch.setattr(whitening, "_normals", drawn(f"psgd_kron/{run}", leaf))
    compare(f"psgd_kron/{run}", leaf, RUNS[run], rtol=1e-5 if estimate else 1e-4)
