"""The optimizers of public models by name: each one call, put together from parts of this library.

`docs/recipes.md` says of each where its numbers come from, and what differs from the source.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax

from gdjax.combine.chain import chain
from gdjax.combine.groups import partition, routed
from gdjax.core.base import GradientTransformation, init_empty_state, transform
from gdjax.core.growth import SAME
from gdjax.core.number_domains import POSITIVE, RATE, SIZE, AtLeast, Check
from gdjax.core.parts import holding
from gdjax.core.paths import paths_of
from gdjax.core.types import (
    Array,
    Count,
    Decay,
    Floating,
    OptState,
    Params,
    Rate,
    Scalar,
    Size,
    Squares,
    Transform,
    Updates,
    per_leaf,
)  # fmt: skip
from gdjax.core.values import value
from gdjax.leaf_roles.plan import matrices_by_role, plan_of
from gdjax.linalg.polar import JORDAN, of_smaller
from gdjax.optimizers.adam import adam, adamw, scale_by_adam
from gdjax.optimizers.muon import muon
from gdjax.optimizers.normuon import scale_by_normuon
from gdjax.schedules.decay import cosine_decay_schedule, linear_schedule
from gdjax.schedules.warmup import warmup_stable_decay_schedule
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.hyperball import hyperball
from gdjax.transforms.qk_clip import qk_clip
from gdjax.transforms.scaling import scale_by_learning_rate
from gdjax.tree.updates import apply_updates

Overrides = Annotated[Mapping[Any, Any], Check("mapping")] | None
Number = Annotated[Scalar, RATE]
Total = Annotated[int, AtLeast(100, static=True)]

# modded-nanogpt's Polar Express: of five steps, for singular values of which the largest is at most 1 / 1.02.
_SPEEDRUN = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def _muon(
    learning_rate: Rate, weight_decay: Size, numbers: Any, ns_dtype: Floating | None, rms: float,
    ns_coeffs: Any = JORDAN, ns_steps: int = 5, *, nesterov: bool = True, eps: float = 1e-8, ns_eps: float = 1e-7,
) -> GradientTransformation:  # fmt: skip
    """Moonlight's: Muon with updates of one root mean square, AdamW at the same rate, decay of every leaf."""
    return muon(
        learning_rate, ns_coeffs, ns_steps, 0.95, ns_eps, weight_decay, nesterov=nesterov, bias_correction=False,
        consistent_rms=rms, ns_dtype=ns_dtype, muon_weight_dimension_numbers=numbers,
        others=adamw(learning_rate, 0.9, 0.95, eps, weight_decay=weight_decay),
    )  # fmt: skip


@transform
def _with_qk_clip(label: str, tau: float | Array, heads: Mapping[str, Any]) -> GradientTransformation:
    """Updates after which the parameters are those that `qk_clip` makes of them."""

    def update(
        updates: Updates, state: OptState, params: Params = None, *, max_logits: Any = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        if max_logits is None or params is None:
            call = "update(updates, state, params, max_logits={path of an attention: its largest logit of each head})"
            raise ValueError(f"{label}: call {call}; {{}} clips nothing in a step, and tau=None never does")
        moved = apply_updates(params, updates)
        clipped = qk_clip(moved, max_logits, tau, **heads)

        def of(u: Array, p: Array, x: Array, new: Array) -> Array:
            return u if new is x else (new - p).astype(u.dtype)  # what is clipped is another array

        return jax.tree.map(of, updates, params, moved, clipped), state

    return holding(init_empty_state, update, growth=SAME)


@transform
def kimi_k2(
    learning_rate: Rate, *, weight_decay: Size = 0.1, tau: Annotated[float | Array, POSITIVE] | None = 100.0,
    heads: Overrides = None, roles: Overrides = None, ns_dtype: Floating | None = None,
) -> GradientTransformation:  # fmt: skip
    """Kimi K2's MuonClip: Muon with updates of one root mean square, weight decay, and QK-Clip after the step.

        M_t = 0.95 M_{t-1} + G_t
        W_{t+1} = W_t - lr (0.2 sqrt(max(rows, columns)) NewtonSchulz(M_t) + weight_decay W_t)
        W_q <- sqrt(gamma_h) W_q,    W_k <- sqrt(gamma_h) W_k,    gamma_h = min(1, tau / S_h)    of each head h

    with S_h the largest logit of head h in this step's forward pass.

    Embeddings, heads, norms and biases get AdamW at the same rate. Its `update` needs the logits:
    `update(grads, state, params, max_logits=S)`, in the form that `qk_clip` takes them.

    Args:
      learning_rate: lr, of AdamW's size, a scalar or a schedule.
      weight_decay: of all leaves, times lr.
      tau: the largest logit that is let be; None for no clip, and no logits.
      heads: arguments of `qk_clip` that say which leaves are queries and keys, and where their heads are, such as
        {"query": "q_proj", "key": "k_proj", "head_axis": -1}; without them as it has them, for Flax.
      roles: from pattern to role or `Matrix`, for leaves that names and shapes do not tell.
      ns_dtype: the dtype that factors are rounded to before they are multiplied: "bfloat16" on accelerators.

    Raises:
      ValueError: a name in `heads` that `qk_clip` does not have; (in update) params or max_logits are missing.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> kernel = jnp.ones((4, 2, 3))  # (inputs, heads, size)
      >>> params = {"attention": {"query": {"kernel": kernel}, "key": {"kernel": kernel}}}
      >>> tx = gdjax.recipes.kimi_k2(1e-3)
      >>> logits = {"attention": jnp.array([50.0, 400.0])}  # the largest of each head
      >>> grads = jax.tree.map(jnp.zeros_like, params)
      >>> u, _ = tx.update(grads, tx.init(params), params, max_logits=logits)
      >>> print(gdjax.apply_updates(params, u)["attention"]["query"]["kernel"][0, :, 0])
      [0.9999  0.49995]

    Reference:
      Kimi Team 2025, Kimi K2: open agentic intelligence, Algorithm 1, https://arxiv.org/abs/2507.20534
    """
    label, known = "gdjax.kimi_k2", qk_clip.__kwdefaults__ or {}
    if unknown := [name for name in heads or {} if name not in known]:
        raise ValueError(f"{label}: heads: qk_clip has no argument {unknown[0]!r}; it has {', '.join(known)}")
    numbers = matrices_by_role(roles, also=("router",))
    tx = _muon(learning_rate, weight_decay, numbers, ns_dtype, 0.2, nesterov=False)
    return tx if tau is None else chain(tx, _with_qk_clip(label, tau, heads or {}))


@transform
def deepseek_v4(
    learning_rate: Rate, *, weight_decay: Size = 0.1, roles: Overrides = None, ns_dtype: Floating | None = None
) -> GradientTransformation:
    """DeepSeek-V4's Muon: ten steps of Newton-Schulz, eight that are fast and two that converge, and Nesterov.

        M_t = 0.95 M_{t-1} + G_t
        O_t = HybridNewtonSchulz(0.95 M_t + G_t)
        W_{t+1} = W_t - lr (0.18 sqrt(max(rows, columns)) O_t + weight_decay W_t)

    Embeddings, heads, norms and biases get AdamW at the same rate, with an eps of 1e-20. Routers are matrices.

    Args:
      learning_rate: lr, of AdamW's size, a scalar or a schedule.
      weight_decay: of all leaves, times lr.
      roles: from pattern to role or `Matrix`, for leaves that names and shapes do not tell.
      ns_dtype: the dtype that factors are rounded to before they are multiplied: "bfloat16" on accelerators.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"experts": {"up": jnp.ones((2, 3, 6))}, "norm": {"scale": jnp.ones(3)}}
      >>> tx = gdjax.recipes.deepseek_v4(1e-2, weight_decay=0.0)
      >>> grads = {"experts": {"up": jnp.eye(3, 6) * jnp.ones((2, 1, 1))}, "norm": {"scale": jnp.ones(3)}}
      >>> u, _ = tx.update(grads, tx.init(params), params)
      >>> print((1e5 * jnp.sqrt(jnp.mean(u["experts"]["up"] ** 2, (1, 2)))).round())  # 0.18 rates, of each expert
      [180. 180.]

    Reference:
      DeepSeek-AI 2026, DeepSeek-V4, Algorithm 1 and sections 2.4 and 4.2.2, https://arxiv.org/abs/2606.19348
    """
    numbers = matrices_by_role(roles, also=("router",))
    return _muon(learning_rate, weight_decay, numbers, ns_dtype, 0.18, "deepseek", 10, eps=1e-20, ns_eps=1e-20)


@transform
def glm_5(
    learning_rate: Rate, *, head_size: Count | None = None, weight_decay: Size = 0.1, roles: Overrides = None,
    ns_dtype: Floating | None = None,
) -> GradientTransformation:  # fmt: skip
    """GLM-5's Muon Split: GLM-4.5's Muon, with each head of the queries, keys and values a matrix by itself.

        M_t = 0.95 M_{t-1} + G_t
        W_{t+1} = W_t - lr (0.2 sqrt(max(rows, columns)) NewtonSchulz(0.95 M_t + G_t) + weight_decay W_t)

    with the rows and columns of one head where there are several. Embeddings, norms and biases get AdamW at the same
    rate. The head of the model and routers are matrices.

    Args:
      learning_rate: lr, of AdamW's size, a scalar or a schedule.
      head_size: of attention; it may be left out where heads have an axis of their own.
      weight_decay: of all leaves, times lr.
      roles: from pattern to role or `Matrix`, for leaves that names and shapes do not tell.
      ns_dtype: the dtype that factors are rounded to before they are multiplied: "bfloat16" on accelerators.

    Raises:
      ValueError: (in init) it cannot be known where queries, keys or values are cut into heads.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"query": {"kernel": jnp.ones((8, 2, 4))}, "out": {"kernel": jnp.ones((2, 4, 8))}}
      >>> table = gdjax.explain(gdjax.recipes.glm_5(1e-3), params)
      >>> print(*zip(table["path"], table["role"]))
      ('out/kernel', 'matrix 8 x 8') ('query/kernel', 'matrix 2 x 8 x 4')

    Reference:
      GLM-5 Team 2026, GLM-5: from vibe coding to agentic engineering, section 2.1, https://arxiv.org/abs/2602.15763;
      GLM-4.5 Team 2025, section 2.4, https://arxiv.org/abs/2508.06471
    """
    numbers = matrices_by_role(roles, also=("router", "head"), per_head=head_size or True)
    return _muon(learning_rate, weight_decay, numbers, ns_dtype, 0.2)


@transform
def marin(
    learning_rate: Rate, adam_learning_rate: Rate, *, method: Literal["muonh", "adamh"] = "muonh", b1: Decay = 0.9062,
    b2: Squares = 0.95, eps: Size = 1e-8, roles: Overrides = None, ns_dtype: Floating | None = None,
) -> GradientTransformation:  # fmt: skip
    """marin's MuonH, or AdamH: matrices keep their norms and turn in the direction of Muon, or of Adam.

        W_{t+1} = R V / |V|    with V = W_t - lr R U_t / |U_t|,    R = |W_0|

    for each hidden matrix, of each layer and each expert, and for the head of the model, where U_t is Adam's. The rest
    gets Adam at a rate of its own. There is no weight decay.

    Args:
      learning_rate: lr, the share of its norm that a matrix moves by, a scalar or a schedule.
      adam_learning_rate: of the rest; marin has 3 / 13 of lr.
      method: the direction U_t of hidden matrices: "muonh", of Muon with a momentum of 0.95, or "adamh", of Adam.
      b1, b2, eps: Adam's.
      roles: from pattern to role or `Matrix`, for leaves that names and shapes do not tell.
      ns_dtype: the dtype that factors are rounded to before they are multiplied: "bfloat16" on accelerators.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> tx = gdjax.recipes.marin(0.1, 0.02)
      >>> grads = {"embed": params["embed"], "mlp": {"kernel": jnp.eye(4)[::-1]}}
      >>> u, _ = tx.update(grads, tx.init(params), params)
      >>> new = gdjax.apply_updates(params, u)["mlp"]["kernel"]
      >>> print(jnp.linalg.norm(new).round(5))
      2.0

    Reference:
      https://github.com/marin-community/marin, experiments/grug/moe: optimizer.py, heuristic.py;
      Wen, Dang, Lyu, Ma & Liang 2026, Hyperball, https://arxiv.org/abs/2606.16899
    """
    inner: Transform = adam(adam_learning_rate, b1, b2, eps)
    if method == "muonh":  # of a matrix only the direction counts
        numbers = matrices_by_role(roles)
        inner = muon(
            1.0, "dion", 5, 0.95, bias_correction=False, ns_dtype=ns_dtype, muon_weight_dimension_numbers=numbers,
            others=inner,
        )  # fmt: skip
    return hyperball(inner, learning_rate, roles)


@value
def _shape_factors(numbers: Any) -> Any:
    """A function from parameters to sqrt(max(1, outputs / inputs)) of each matrix."""

    def of(params: Params) -> Any:
        leaves = plan_of("gdjax.recipes", params, numbers, quiet=True).leaves
        return jax.tree.structure(params).unflatten([max(1, x.sizes[0][2] / x.sizes[0][1]) ** 0.5 for x in leaves])

    return of


def _normuon(
    rate: Any, b1: Any, weight_decay: Any, numbers: Any, safety: float, ns_dtype: Floating | None, **more: Any
) -> GradientTransformation:
    """NorMuon of the speedrun, with a cautious decay that grows with the shape as the step does."""
    coeffs = (of_smaller(_SPEEDRUN[0], safety), *_SPEEDRUN[1:])
    return chain(
        scale_by_normuon(
            b1, 0.9, 1e-10, coeffs, 5, consistent_rms=None, neurons="longer", ns_dtype=ns_dtype, roles=numbers, **more
        ),
        add_decayed_weights(per_leaf(weight_decay, _shape_factors(numbers)), cautious=True),
        scale_by_learning_rate(rate),
    )


def _adam(rate: Any, b1: float, b2: float, weight_decay: Any = 0.0, cautious: bool = False) -> GradientTransformation:
    decay = add_decayed_weights(weight_decay, cautious=cautious)
    return chain(scale_by_adam(b1, b2, 1e-10), decay, scale_by_learning_rate(rate))


@value
def _by_name(patterns: tuple[tuple[str, str], ...]) -> Any:
    """Labels for `partition`: that of the first pattern in the path, or "rest"."""

    def labels(tree: Any) -> Any:
        paths = [path for path, _ in paths_of(tree)]
        return jax.tree.structure(tree).unflatten(
            [next((label for pattern, label in patterns if re.search(pattern, path)), "rest") for path in paths]
        )

    return labels


@transform
def nanochat(
    steps: Total, width: Count, *, matrix_learning_rate: Number = 0.02,
    embedding_learning_rate: Number = 0.3, head_learning_rate: Number = 0.008, scalar_learning_rate: Number = 0.5,
    weight_decay: Annotated[Scalar, SIZE] = 0.28, warmup_steps: Count = 40,
    roles: Overrides = None, ns_dtype: Floating | None = None,
) -> GradientTransformation:  # fmt: skip
    """nanochat's: NorMuon for the matrices, and AdamW with a rate for each kind of leaf; schedules of all of them.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t,    m_t = b1 mu_t + (1 - b1) g_t with its outputs made equal in norm
        O_t = PolarExpress(m_t) with the norm sqrt(min(rows, columns))
        v_t = 0.9 v_{t-1} + 0.1 mean of |O_t|^2 over the shorter side,    U_t = O_t / sqrt(v_t) with the norm of O_t
        W_{t+1} = W_t - lr sqrt(max(1, outputs / inputs)) (U_t + weight_decay W_t where U_t W_t >= 0)

    The rate rises over `warmup_steps`, stays, and falls to a twentieth over the last 65 % of the steps. b1 goes from
    0.85 to 0.97 over 400 steps, and to 0.9 while the rate falls. The decay falls to 0 as a cosine.

    Args:
      steps: of the whole run, at least 100.
      width: of the model: the rates of embeddings and head are for 768, and go as one over its root.
      matrix_learning_rate, embedding_learning_rate, head_learning_rate, scalar_learning_rate: the peaks of the rates;
        value embeddings have half of that of embeddings, `resid_lambdas`, norms and biases a hundredth of that of
        scalars, `x0_lambdas` all of it.
      weight_decay: of the matrices, times the rate; the others have nanochat's.
      warmup_steps: of the rate, less than 35 % of the steps.
      roles: from pattern to role or `Matrix`, for leaves that names and shapes do not tell.
      ns_dtype: the dtype that factors are rounded to before they are multiplied: "bfloat16" on accelerators.

    Raises:
      ValueError: the warm-up reaches into the fall of the rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"wte": jnp.ones((9, 192)), "h": {"c_fc": {"kernel": jnp.ones((192, 4))}}}
      >>> tx = gdjax.recipes.nanochat(steps=1000, width=192)
      >>> u, _ = tx.update(params, tx.init(params), params)
      >>> print((1e4 * u["wte"][0, 0]).round())  # 0.3 sqrt(768 / 192), a 40th of it; it warms up
      -150.0

    Reference:
      https://github.com/karpathy/nanochat: nanochat/optim.py, nanochat/gpt.py (setup_optimizer), scripts/base_train.py
    """
    label, fall = "gdjax.nanochat", round(0.65 * steps)
    if warmup_steps > steps - fall:
        told = f"warmup_steps is {warmup_steps}, and the rate falls from step {steps - fall} on"
        raise ValueError(f"{label}: {told}: give a shorter warm-up for a run of {steps} steps")
    momentum = min(400, steps - fall)

    def rate(peak: Any) -> Any:
        flat = steps - fall - (warmup_steps - 1)
        return warmup_stable_decay_schedule(
            peak / warmup_steps, peak, warmup_steps - 1, flat, fall, 0.05 * peak, "linear"
        )

    b1 = warmup_stable_decay_schedule(0.85, 0.97, momentum, steps - fall - momentum, fall, 0.9, "linear")
    by_width = (width / 768) ** -0.5
    numbers = matrices_by_role(roles, also=("router",))
    matrices = _normuon(
        rate(matrix_learning_rate), b1, cosine_decay_schedule(weight_decay, steps), numbers, 1.01, ns_dtype,
        equilibrate="outputs", renormalize="frobenius",
    )  # fmt: skip
    scalars = _adam(rate(0.01 * scalar_learning_rate), 0.8, 0.95, 0.05)
    by_role = {
        "matrix": matrices,
        "embedding": _adam(rate(embedding_learning_rate * by_width), 0.8, 0.995, 0.001),
        "head": _adam(rate(head_learning_rate * by_width), 0.8, 0.96, 0.01),
        "other": scalars,
    }
    groups = {
        "value": _adam(rate(0.5 * embedding_learning_rate * by_width), 0.8, 0.995, 0.01),
        "resid": scalars,
        "x0": _adam(rate(scalar_learning_rate), 0.96, 0.95),
        "smear": _adam(rate(0.2), 0.8, 0.95),
        "rest": routed(label, by_role, numbers),
    }
    names = ("value_?emb", "value"), ("resid_lambda", "resid"), ("x0_lambda", "x0"), ("smear|backout", "smear")
    return partition(groups, _by_name(names))


@transform
def modded_nanogpt(
    steps: Total, *, matrix_learning_rate: Number = 0.023, adam_learning_rate: Number = 0.008,
    roles: Overrides = None, ns_dtype: Floating | None = None,
) -> GradientTransformation:  # fmt: skip
    """modded-nanogpt's NorMuonAndAdam: NorMuon for the matrices, Adam for the rest, decays with the square of the rate.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t,    O_t = PolarExpress(b1 mu_t + (1 - b1) g_t)
        v_t = 0.9 v_{t-1} + 0.1 mean of |O_t|^2 over the shorter side,    U_t = O_t / sqrt(v_t) with the norm of O_t
        W_{t+1} = W_t - lr sqrt(max(1, outputs / inputs)) (U_t + 1.2 lr W_t where U_t W_t >= 0)

    The rate stays, and falls to 15 % over the last 60 % of the steps. b1 rises from 0.85 to 0.95 over 300 steps, and
    falls back over the last 50.

    Args:
      steps: of the whole run, at least 100.
      matrix_learning_rate: lr, its first value.
      adam_learning_rate: of embeddings and head, its first value; value and bigram embeddings have 75 times as much,
        the rest 5 times.
      roles: from pattern to role or `Matrix`, for leaves that names and shapes do not tell.
      ns_dtype: the dtype that factors are rounded to before they are multiplied: "bfloat16" on accelerators.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "value_embeds": jnp.ones((9, 4))}
      >>> tx = gdjax.recipes.modded_nanogpt(steps=1000)
      >>> u, _ = tx.update(params, tx.init(params), params)
      >>> print((1e4 * u["embed"][0, 0]).round(), (1e4 * u["value_embeds"][0, 0]).round())
      -80.0 -6090.0

    Reference:
      https://github.com/KellerJordan/modded-nanogpt: train_gpt.py, of 2026-08-01
    """
    flat, numbers, momentum = int(0.4 * steps), matrices_by_role(roles), min(300, steps - 50)

    def rate(peak: Any) -> Any:
        return linear_schedule(peak, 0.15 * peak, steps - flat, flat)

    def by_adam(factor: float, b1: float, b2: float, decay: float) -> GradientTransformation:
        peak = factor * adam_learning_rate
        return _adam(rate(peak), b1, b2, rate(decay * peak), cautious=True)

    b1 = warmup_stable_decay_schedule(0.85, 0.95, momentum, steps - 50 - momentum, 50, 0.85, "linear")
    decay = rate(1.2 * matrix_learning_rate)
    token = by_adam(1.0, 0.5, 0.95, 0.75)
    by_role = {
        "matrix": _normuon(rate(matrix_learning_rate), b1, decay, numbers, 1.02, ns_dtype),
        "embedding": token,
        "head": token,
        "other": by_adam(5.0, 0.9, 0.99, 0.0),
    }
    groups = {"value": by_adam(75.0, 0.75, 0.95, 0.025), "rest": routed("gdjax.modded_nanogpt", by_role, numbers)}
    return partition(groups, _by_name((("value_?emb|bigram", "value"),)))
