"""PSGD: momentum whitened by a Kronecker-factored preconditioner that is fitted by gradient descent."""

import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import AtLeast
from gdjax.core.types import Bound, Decay, DType, KeyLike, Mask, Positive, Probability, Rate, Roles, Size
from gdjax.leaf_roles.plan import routing
from gdjax.lift.leafwise import hyper
from gdjax.lift.slots import Factor, Key, New, Shared, start
from gdjax.linalg.whitening import Form, Settings, fitted, whitened
from gdjax.matrices.in_turns import LONGEST, in_turns
from gdjax.matrices.matrixwise import matrixwise
from gdjax.matrices.slots import Block
from gdjax.numerics import Array, debias, unit_and_norm
from gdjax.optimizers.with_adam import with_adam
from gdjax.schedules.decay import precond_update_prob_schedule

__all__ = ["PSGDKronState", "psgd_kron", "scale_by_psgd_kron"]


class PSGDKronState(NamedTuple):
    """State of `scale_by_psgd_kron`. Q, P and L have a stack for each shape of matrices, by its name, "768x3072"."""

    count: Array  # () int32, updates made so far
    update_counter: Array  # () int32, updates since the last of the preconditioner, where a schedule says when it is
    key: Array  # () of the noise; each step makes its own from it
    mu: Any  # (number, m, n), momentum
    Q: Any  # [left (number, rows, rows), right (number, columns, columns)]; (number, n, 1) where it is diagonal
    P: Any  # the same of Q^H Q
    L: Any  # (number, 1, 2), Lipschitz constants of both


SaveMode = Literal["one_diag", "all_diag"] | None
PROBABILITY = precond_update_prob_schedule()


def _root(p: Array, arguments: Mapping[str, Any], side: int, power: float) -> Array:
    """A square along the rows, side 0, or the columns, side 1: a power of a scale, times I.

    That of a long side, of a side of length 1, and of those that `memory_save_mode` says, is the diagonal, (n, 1).
    """
    (rows, columns), n = p.shape, p.shape[side]
    longer, real = int(rows <= columns), numerics.real_dtype(p.dtype)
    diagonal = {None: (), "one_diag": (longer,), "all_diag": (0, 1)}[arguments["memory_save_mode"]]
    scale = jnp.asarray(start("precond_init_scale", arguments), real) ** power
    if n <= 1 or n > arguments["max_size_triangular"] or side in diagonal:
        return jnp.full((n, 1), scale, real)
    return scale.astype(p.dtype) * jnp.eye(n, dtype=p.dtype)


def _roots(power: float) -> list[Any]:
    return [functools.partial(_root, side=side, power=power) for side in (0, 1)]


def period(probability: Any) -> int | None:
    """In how many steps each matrix has its turn, with a number for a probability.

    None with a schedule, and with a number so small that all have theirs in one step.
    """
    fixed = isinstance(probability, int | float) and probability * LONGEST >= 1
    return max(1, math.ceil((1 - 1e-6) / probability)) if fixed else None


@matrixwise(
    PSGDKronState, update_counter=Shared(0, jnp.int32), mu=Block(dtype="mu_dtype"), key=Key("key"),
    Q=_roots(0.5), P=_roots(1), L=Factor((New(1), New(2))),  # of the Lipschitz constants a number for each side
    reads="precond_init_scale max_size_triangular memory_save_mode", growth="eigenbasis",
)  # fmt: skip
def scale_by_psgd_kron(
    G: Array, s: PSGDKronState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, preconditioner_update_probability: hyper.Probability = PROBABILITY,
    precond_lr: hyper.Rate = 0.1,
    precond_init_scale: hyper.Positive = 1.0,
    *, dQ: Form = "Q0.5EQ1.5", max_size_triangular: Annotated[int, AtLeast(0, static=True)] = 8192,
    memory_save_mode: SaveMode = None, momentum_into_precond_update: bool = True, normalize_grads: bool = False,
    beta_lip: hyper.Decay = 0.9, damping: hyper.Size = 1e-9, max_update_rms: hyper.Bound = 1.1, key: KeyLike = 0,
    mu_dtype: DType | None = None, roles: Roles = None, delayed: bool = False,
) -> tuple[Array, PSGDKronState]:  # fmt: skip
    """PSGD's direction, the whitened momentum.

    Every leaf must be a matrix, or `roles` say how it is one; else `update` raises a ValueError.

    Formulas and arguments are those of `gdjax.psgd_kron`, without its rate and decay.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_psgd_kron(memory_save_mode="one_diag")
      >>> state = tx.init({"w": jnp.ones((6, 4))})
      >>> jax.tree.map(jnp.shape, state.Q)  # a diagonal for the longer side
      {'4x6': [(1, 4, 4), (1, 6, 1)]}
    """
    if normalize_grads:
        unit, norm = unit_and_norm(G)
        G = G * (1 / unit).astype(G.dtype) / jnp.where(norm == 0, 1, norm).astype(G.dtype)
    mu = b1 * s.mu + (1 - b1) * G
    m = debias(mu, b1, t)

    k, due, passed = period(preconditioner_update_probability), None, s.update_counter
    if k is None:
        passed = numerics.safe_increment(passed)
        due = passed.astype(t.dtype) * preconditioner_update_probability >= 1 - 1e-6
        passed = jnp.where(due, 0, passed)
    settings = Settings(dQ, precond_lr, beta_lip, damping)
    fit = in_turns(lambda first, *xs: fitted(*xs, settings=settings), k, due, start=k or 1)
    Ql, Qr, Pl, Pr, L = fit([*s.Q, *s.P, s.L], m if momentum_into_precond_update else G, s.key)
    left, right = s.P if delayed else (Pl, Pr)
    U = whitened(left, right, m, max_update_rms)
    return U, s._replace(update_counter=passed, mu=mu, Q=[Ql, Qr], P=[Pl, Pr], L=L)


@transform
def psgd_kron(
    learning_rate: Rate, b1: Decay = 0.9, preconditioner_update_probability: Probability = PROBABILITY,
    precond_lr: Rate = 0.1, precond_init_scale: Positive = 1.0,
    *, dQ: Form = "Q0.5EQ1.5", max_size_triangular: Annotated[int, AtLeast(0, static=True)] = 8192,
    memory_save_mode: SaveMode = None, momentum_into_precond_update: bool = True, normalize_grads: bool = False,
    beta_lip: Decay = 0.9, damping: Size = 1e-9, max_update_rms: Bound = 1.1, key: KeyLike = 0,
    weight_decay: Size = 0.0, weight_decay_mask: Mask = None, mu_dtype: DType | None = None, roles: Roles = None,
    adam_learning_rate: Rate | None = None, others: Any = None, delayed: bool = False,
) -> GradientTransformation:  # fmt: skip
    """PSGD-Kron for matrices, AdamW for the rest: momentum whitened by factors that are fitted step by step.

        m_t = (b1 mu_{t-1} + (1 - b1) g_t) / (1 - b1^t)
        u_t = P_l m_t P_r    with P = Q^H Q, Q_l of the rows, Q_r of the columns
        x_{t+1} = x_t - lr (u_t min(1, max_update_rms / rms(u_t)) + weight_decay x_t)

    Before that, in some of the steps, each Q takes a step to where u is white, of noise v as large as what rounds m_t:

        U = P_l (m_t + (damping + eps |m_t|) v) P_r,    A = U U^H,    w = numbers of m_t / n    for Q_l of size n
        L = max(beta_lip L + (1 - beta_lip) l, l)    with l = |A| + w, the spectral norm, estimated from below
        Q <- Q - precond_lr / L (A - w) Q,    turned towards a symmetric matrix

    and likewise Q_r with U^H. That is dQ = "Q0.5EQ1.5". With "QUAD" half a step from the left and half from the right,
    so that Q is symmetric. With "EQ" Q is triangular; A is then of Q_l m Q_r^H, and w is B B^H of B = Q_l^-H v Q_r^-1.
    The first two need products alone.

    A matrix of m x n has a state of m n + 2 m^2 + 2 n^2 numbers: P is kept beside Q, so that a step without an update
    is two products. Stacks and parts are matrices each by itself; those of one shape are computed together, 16-bit ones
    in float32.

    Other arguments are those of `gdjax.normuon`.

    Args:
      b1: decay of the momentum, in [0, 1).
      preconditioner_update_probability: p: Q takes a step where 1 / p steps have passed since the last, so that runs
        are the same. By default 1 for 500 steps, then down to 0.03: `precond_update_prob_schedule`. With a number in
        place of a schedule the matrices have their turns one after the other in 1 / p steps, so that no step is long.
      precond_lr: how fast Q changes, below 1.
      precond_init_scale: Q_l and Q_r start as its root times I. Near the root of 1 / rms(g) is best; each step of Q
        makes good a factor of 1 + `precond_lr` at most.
      dQ: the form of a step of Q, see above.
      max_size_triangular, memory_save_mode: sides that are longer have a diagonal Q; with "one_diag" the longer side
        (of a square, the columns), with "all_diag" both.
      momentum_into_precond_update: False to whiten the gradient g_t in place of m_t.
      normalize_grads: divide the gradient of each matrix by its norm first.
      beta_lip: decay of the Lipschitz constants L, in [0, 1). Near 1 where gradients are sparse.
      damping: the least noise. It keeps P below 1 / damping.
      max_update_rms: the largest root mean square of the whitened momentum; that of white numbers is 1.
      key: a PRNG key, or an int to seed one, for v and the estimates of norms.
      mu_dtype: the dtype of mu, float32 at least by default; of AdamW's too.
      roles: which leaves are matrices, and how: by role (None, or a dict from pattern to role), a tree, or a function
        from the parameters to one.
      adam_learning_rate: AdamW's, lr by default. Its b2 is 0.999, and it has no decay.
      delayed: whether an update uses the P from before its step, so that it does not wait for a step of Q.

    Departures: the references update all matrices in one step. psgd_jax has "EQ" alone, without beta_lip, with noise of
    sqrt(eps) mean |m|; it evaluates p one step later, and its biases have a Q too. psgd_torch draws when Q takes a
    step, and clips also the elements of u. Both balance the sizes of Q_l and Q_r now and then; here it is in every step
    of Q, which does not change U. Huge gradients do not overflow.

    Raises:
      ValueError: an unknown form or mode; a size below 0; roles that do not fit.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> x, w = jax.random.normal(jax.random.key(0), (16, 4)), jnp.ones((4, 3))
      >>> loss = lambda p: jnp.mean((x @ p["kernel"] - x @ w) ** 2)
      >>> tx = gdjax.psgd_kron(gdjax.linear_schedule(0.05, 0.0, 100), precond_init_scale=1.0)
      >>> result = gdjax.minimize(loss, {"kernel": jnp.zeros((4, 3))}, tx, steps=100)
      >>> bool(result.history["loss"][-1] < 0.1 * result.history["loss"][0])
      True

    Reference:
      Li 2015, Preconditioned stochastic gradient descent, https://arxiv.org/abs/1512.04202;
      Li 2024, Stochastic Hessian fittings with Lie groups, https://arxiv.org/abs/2402.11858;
      https://github.com/lixilinx/psgd_torch (the forms), https://github.com/evanatyourservice/psgd_jax (the rest)
    """
    direction = scale_by_psgd_kron(
        b1, preconditioner_update_probability, precond_lr, precond_init_scale, dQ=dQ,
        max_size_triangular=max_size_triangular, memory_save_mode=memory_save_mode,
        momentum_into_precond_update=momentum_into_precond_update, normalize_grads=normalize_grads,
        beta_lip=beta_lip, damping=damping, max_update_rms=max_update_rms, key=key, mu_dtype=mu_dtype,
        roles=routing(roles), delayed=delayed,
    )  # fmt: skip
    return with_adam(
        "gdjax.psgd_kron", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, mu_dtype,
    )  # fmt: skip
