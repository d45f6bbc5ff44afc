"""The rules of other methods, as the papers have them: oracles of `tests.oracles`, of one array."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.oracles import STEPS, at


def sgd(x: Any, gradient: Any, learning_rate: Any, momentum: float = 0.0, nesterov: bool = False) -> Iterator[Any]:
    v, mu = 0.0, momentum
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        v = mu * v + g
        x = x - at(learning_rate, t) * (g + mu * v if nesterov else v)
        yield x, {"trace": v} if mu else {}


def optimistic(
    x: Any, gradient: Any, learning_rate: Any, alpha: Any = 1.0, beta: Any = 1.0, direction: Any = lambda t, g, s: g
) -> Iterator[Any]:
    memory: dict[str, Any] = {}
    before = 0.0
    for t in range(1, STEPS + 1):
        g = direction(t, gradient(t, x), memory)
        before = g if t == 1 else before
        step = at(alpha, t) * g + at(beta, t) * (g - before)
        x, before = x - at(learning_rate, t) * step, g
        yield x, {"previous_gradient": g, "is_initial_step": False, **memory}


def adams(t: int, g: Any, memory: dict[str, Any], b1: float = 0.9, b2: float = 0.999, nesterov: bool = True) -> Any:
    memory["mu"] = b1 * memory.get("mu", 0) + (1 - b1) * g
    memory["nu"] = b2 * memory.get("nu", 0) + (1 - b2) * g**2
    m_hat = memory["mu"] / (1 - b1**t)
    if nesterov:
        m_hat = b1 * memory["mu"] / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return m_hat / (np.sqrt(memory["nu"] / (1 - b2**t)) + 1e-8)


def optimistic_adam(x: Any, gradient: Any, learning_rate: Any, optimism: Any = None, **numbers: Any) -> Iterator[Any]:
    """The reference: theta_t = theta_{t-1} - 2 lr u_t + lr u_{t-1} for the optimism lr."""
    beta = learning_rate if optimism is None else optimism
    return optimistic(x, gradient, 1.0, learning_rate, beta, functools.partial(adams, **numbers))


def signum(x: Any, gradient: Any, learning_rate: Any, beta: float = 0.9) -> Iterator[Any]:
    m = np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        m = beta * m + (1 - beta) * gradient(t, x)
        x = x - at(learning_rate, t) * np.sign(m)
        yield x, {"ema": m}


def sign_sgd(x: Any, gradient: Any, learning_rate: Any) -> Iterator[Any]:
    for t in range(1, STEPS + 1):
        x = x - at(learning_rate, t) * np.sign(gradient(t, x))
        yield x, {}


def lion(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.99, mu_dtype: Any = np.float64,
    weight_decay: Any = 0.0, mask: Any = None, mode: str = "hard", smooth_beta: float = 1.0,
) -> Iterator[Any]:  # fmt: skip
    shapes = {"hard": np.sign, "smooth": lambda c: np.tanh(smooth_beta * c), "refined": lambda c: np.clip(c, -1, 1)}
    mu = np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        u = shapes[mode](b1 * mu + (1 - b1) * g)
        if mask is None or np.ndim(x) > 1:
            u = u + at(weight_decay, t) * x
        x = x - at(learning_rate, t) * u
        mu = np.float64((b2 * mu + (1 - b2) * g).astype(mu_dtype))
        yield x, {"mu": mu}


def rprop(
    x: Any, gradient: Any, learning_rate: float, eta_minus: float = 0.5, eta_plus: float = 1.2,
    min_step_size: float = 1e-6, max_step_size: float = 50.0,
) -> Iterator[Any]:  # fmt: skip
    """iRprop-, element by element."""
    delta, before, step = np.full(np.shape(x), learning_rate), np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = np.array(gradient(t, x))
        for i in np.ndindex(np.shape(x)):
            if g[i] * before[i] > 0:
                delta[i] = min(delta[i] * eta_plus, max_step_size)
            elif g[i] * before[i] < 0:
                delta[i] = max(delta[i] * eta_minus, min_step_size)
                g[i] = 0
            step[i] = delta[i] * np.sign(g[i])
        x, before = x - step, g
        yield x, {"step_sizes": delta.copy(), "prev_updates": step.copy()}


def adagrad(
    x: Any, gradient: Any, learning_rate: Any, initial_accumulator_value: float = 0.1, eps: float = 1e-7
) -> Iterator[Any]:
    s = np.full(np.shape(x), initial_accumulator_value)
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        s = s + g**2
        root = np.sqrt(s + eps)
        x = x - at(learning_rate, t) * np.where(root == 0, 0, g / np.where(root == 0, 1, root))
        yield x, {"sum_of_squares": s}


def adagrad_eps_outside(
    x: Any, gradient: Any, learning_rate: Any, initial_accumulator_value: float = 0.0, eps: float = 0.0
) -> Iterator[Any]:
    """Figure 1 of the reference, whose H_t is delta + sqrt(s_t); s_0 as torch has it."""
    s = np.full(np.shape(x), initial_accumulator_value)
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        s = s + g**2
        root = np.sqrt(s) + eps
        x = x - at(learning_rate, t) * g / np.where(root == 0, 1, root)
        yield x, {"sum_of_squares": s}


def adadelta(
    x: Any, gradient: Any, learning_rate: Any = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    e_g, e_x = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        if weight_decay_mask is None or np.ndim(x) > 1:
            g = g + at(weight_decay, t) * x
        e_g = rho * e_g + (1 - rho) * g**2
        step = -np.sqrt(e_x + eps) / np.sqrt(e_g + eps) * g
        e_x = rho * e_x + (1 - rho) * step**2
        x = x + at(1.0 if learning_rate is None else learning_rate, t) * step
        yield x, {"e_g": e_g, "e_x": e_x}


def rmsprop(
    x: Any, gradient: Any, learning_rate: Any = 0.01, decay: float = 0.9, eps: float = 1e-8, initial_scale: float = 0.0,
    eps_in_sqrt: bool = True, centered: bool = False, momentum: Any = None, nesterov: bool = False,
    bias_correction: bool = False,
) -> Iterator[Any]:  # fmt: skip
    nu, mu, v = np.full(np.shape(x), initial_scale), np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        nu = decay * nu + (1 - decay) * g**2
        mu = decay * mu + (1 - decay) * g
        c = 1 - decay**t if bias_correction else 1
        # The variance is not negative, but for rounding.
        average = np.maximum(nu / c - (mu / c) ** 2, 0) if centered else nu / c
        root = np.sqrt(average + eps) if eps_in_sqrt else np.sqrt(average) + eps
        step = -at(learning_rate, t) * g / root
        if momentum is not None:
            v = momentum * v + step
            step = momentum * v + step if nesterov else v
        x = x + step
        yield x, {"nu": nu} | ({"mu": mu} if centered else {}) | ({"trace": v} if momentum is not None else {})


def madgrad(
    x: Any, gradient: Any, learning_rate: Any, momentum: float = 0.9, weight_decay: float = 0.0, eps: float = 1e-6
) -> Iterator[Any]:
    start, nu, s = np.array(x), np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x) + weight_decay * x
        lamb = (at(learning_rate, t) + eps) * np.sqrt(t)
        nu = nu + lamb * g**2
        s = s + lamb * g
        z = start - s / (np.cbrt(nu) + eps)
        x = momentum * x + (1 - momentum) * z
        yield x, {"grad_sum_sq": nu, "s": s, "x0": start}


def sm3(
    x: Any, gradient: Any, learning_rate: Any, momentum: float = 0.9, b2: float = 1.0, eps: float = 1e-8
) -> Iterator[Any]:
    """SM3-II element by element, the cover of an element being the slices of the array that it lies in."""
    shape, nu = np.shape(x), np.zeros(np.shape(x))
    slices = [(axis, i) for axis in range(len(shape)) for i in range(shape[axis])] or [()]
    mu: dict[Any, Any] = dict.fromkeys(slices, 0.0)
    for t in range(1, STEPS + 1):
        g, u = np.array(gradient(t, x)), np.zeros(shape)
        new: dict[Any, Any] = dict.fromkeys(slices, 0.0)
        for i in np.ndindex(shape):
            cover = list(enumerate(i)) or [()]
            v = b2 * min(mu[r] for r in cover) + (1 if b2 == 1 else 1 - b2) * g[i] ** 2
            u[i] = g[i] / np.sqrt(v + eps)
            for r in cover:
                new[r] = max(new[r], v)
        mu, nu = new, momentum * nu + (1 - momentum) * u
        x = x - at(learning_rate, t) * nu
        yield x, {"nu": nu}


def rms(x: Any) -> Any:
    return np.sqrt(np.mean(x**2))


def adafactor(
    x: Any, gradient: Any, learning_rate: Any = None, min_dim_size_to_factor: int = 128, decay_rate: float = 0.8,
    decay_offset: int = 0, multiply_by_parameter_scale: bool = True, clipping_threshold: Any = 1.0,
    momentum: Any = None, weight_decay_rate: Any = None, eps: float = 1e-30, factored: bool = True,
    weight_decay_mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """Algorithms 4 and 5 of the reference, with Optax's options; a matrix as R C^T / mean(R), anything else whole."""
    matrix = factored and np.ndim(x) == 2 and min(np.shape(x)) >= min_dim_size_to_factor
    rows, columns, whole, average = 0.0, 0.0, 0.0, 0.0
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        b2 = 1 - max(t - at(decay_offset, t), 1) ** -at(decay_rate, t)
        square = g**2 + eps
        rows = b2 * rows + (1 - b2) * square.mean(-1) if matrix else 0
        columns = b2 * columns + (1 - b2) * square.mean(0) if matrix else 0
        whole = b2 * whole + (1 - b2) * square
        v = np.outer(rows, columns) / np.mean(rows) if matrix else whole
        u = g / np.sqrt(v)
        if clipping_threshold is not None:
            u = u / max(1, rms(u) / clipping_threshold)
        u = u * (1.0 if learning_rate is None else at(learning_rate, t))
        if multiply_by_parameter_scale:
            u = u * max(1e-3, rms(x))
        if momentum is not None:
            u = average = momentum * average + (1 - momentum) * u
        if weight_decay_rate is not None and (weight_decay_mask is None or np.ndim(x) > 1):
            u = u + at(weight_decay_rate, t) * x
        x = x - u
        yield x, {}


def torchs_adafactor(
    x: Any, gradient: Any, learning_rate: Any = 0.01, decay_rate: float = 0.8, eps: float = 2.0**-23,
    clipping_threshold: Any = 1.0, weight_decay_rate: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    """As the documentation of `torch.optim.Adafactor` has it."""
    rows, columns, whole = 0.0, 0.0, 0.0
    for t in range(1, STEPS + 1):
        g, b2 = gradient(t, x), 1 - t**-decay_rate
        rate = 1.0 if learning_rate is None else at(learning_rate, t)
        step = max(1e-3, rms(x)) * min(rate, 1 / np.sqrt(t))
        if np.ndim(x) > 1:
            rows = b2 * rows + (1 - b2) * (g**2).mean(-1, keepdims=True)
            columns = b2 * columns + (1 - b2) * (g**2).mean(-2, keepdims=True)
            v = rows * columns / np.maximum(rows.mean(-2, keepdims=True), eps)
        else:
            v = whole = b2 * whole + (1 - b2) * g**2
        u = g / np.sqrt(np.maximum(v, eps**2))
        u = u if clipping_threshold is None else u / max(1, rms(u) / clipping_threshold)
        x = x - rate * weight_decay_rate * x - step * u
        yield x, {}


def came(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, b3: float = 0.9999,
    eps1: float = 1e-30, eps2: float = 1e-16, clip_threshold: Any = 1.0, weight_decay: float = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """Algorithm 2, with the means of the authors' code for sums; their step for what is no matrix is m."""
    matrix = np.ndim(x) == 2
    r = c = R = C = v = m = 0.0
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        if matrix:
            r = b2 * r + (1 - b2) * (g**2 + eps1).mean(1)
            c = b2 * c + (1 - b2) * (g**2 + eps1).mean(0)
            v = np.outer(r, c) / r.mean()
        else:
            v = b2 * v + (1 - b2) * (g**2 + eps1)
        u = g / np.sqrt(v)
        u = u if clip_threshold is None else u / max(1, rms(u) / clip_threshold)
        step = m = b1 * m + (1 - b1) * u
        if matrix:
            U = (u - m) ** 2 + eps2
            R = b3 * R + (1 - b3) * U.mean(1)
            C = b3 * C + (1 - b3) * U.mean(0)
            step = m / np.sqrt(np.outer(R, C) / R.mean())
        decay = weight_decay if mask is None or np.ndim(x) > 1 else 0
        x = x - at(learning_rate, t) * (step + decay * x)
        yield x, {"m": m}


def lars(
    x: Any, gradient: Any, learning_rate: Any, weight_decay: Any = 0.0, weight_decay_mask: Any = True,
    trust_coefficient: float = 0.001, eps: float = 0.0, trust_ratio_mask: Any = True, momentum: float = 0.9,
    nesterov: bool = False,
) -> Iterator[Any]:  # fmt: skip
    """One layer."""
    v = np.zeros(np.shape(x))
    sees = lambda mask: mask if isinstance(mask, bool) else np.ndim(x) > 1
    for t in range(1, STEPS + 1):
        d = gradient(t, x)
        if sees(weight_decay_mask):
            d = d + at(weight_decay, t) * x
        norms = [np.sqrt(np.sum(y**2)) for y in (x, d)]
        if sees(trust_ratio_mask) and min(norms) > 0:
            d = trust_coefficient * norms[0] / (norms[1] + eps) * d
        d = at(learning_rate, t) * d
        v = momentum * v - d
        x = x + (momentum * v - d if nesterov else v)
        yield x, {"trace": v}


def fromage(x: Any, gradient: Any, learning_rate: Any, min_norm: float = 1e-6) -> Iterator[Any]:
    for t in range(1, STEPS + 1):
        g, lr = gradient(t, x), at(learning_rate, t)
        norms = [max(np.sqrt(np.sum(y**2)), min_norm) for y in (x, g)]
        x = (x - lr * g * norms[0] / norms[1]) / np.sqrt(1 + lr**2)
        yield x, {}


def cocob(
    x: Any, gradient: Any, learning_rate: Any = 1.0, alpha: float = 100.0, eps: float = 1e-8, weight_decay: float = 0.0
) -> Iterator[Any]:
    """Algorithm 2, with its signs: it is given -g, and theta adds that up."""
    start = np.array(x)
    L, G, reward, theta = np.full(np.shape(x), eps), *np.zeros((3, *np.shape(x)))
    for t in range(1, STEPS + 1):
        negative = -at(learning_rate, t) * (gradient(t, x) + weight_decay * x)
        L = np.maximum(L, np.abs(negative))
        G = G + np.abs(negative)
        reward = np.maximum(reward + (x - start) * negative, 0)
        theta = theta + negative
        x = start + theta / (L * np.maximum(G + L, alpha * L)) * (L + reward)
        yield x, {
            "init_particles": start, "cumulative_gradients": theta, "scale": L, "subgradients": G, "reward": reward,
        }  # fmt: skip
