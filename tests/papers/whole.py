"""The rules of methods with numbers for the whole tree, as the papers have them: oracles of `tests.vectors`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.oracles import STEPS, at


def polyak(
    x: Any, gradient: Any, value: Any,
    max_learning_rate: float = 1.0, scaling: Any = 1.0, f_min: float = 0.0, eps: float = 0.0, variant: str = "sps",
) -> Iterator[Any]:  # fmt: skip
    taken = set()
    for t in range(1, STEPS + 1):
        g, gap = gradient(t, x), value(t, x) - f_min
        gap = max(gap, 0) if variant == "sps+" else gap
        step = gap / (g @ g + eps)
        taken |= {step > max_learning_rate, gap <= 0}
        x = x - at(scaling, t) * min(step, max_learning_rate) * g
        yield x, {}
    assert taken == {True, False}, "every branch is to be taken"


def momo(
    x: Any, gradient: Any, value: Any, learning_rate: Any = 1.0, beta: float = 0.9, lower_bound: float = 0.0,
    weight_decay: float = 0.0, adapt_lower_bound: bool = False,
) -> Iterator[Any]:  # fmt: skip
    """The authors' code, with the proximal step for the weight decay."""
    d, f, gamma, lb, taken = gradient(1, x), value(1, x), gradient(1, x) @ x, lower_bound, set()
    for t in range(1, STEPS + 1):
        g, lr = gradient(t, x), at(learning_rate, t)
        d = beta * d + (1 - beta) * g
        f = beta * f + (1 - beta) * value(t, x)
        gamma = beta * gamma + (1 - beta) * (g @ x)
        a = 1 + lr * weight_decay
        if adapt_lower_bound and a * (f - gamma) + d @ x < a * lb:
            lb = max((a * (f - gamma) + d @ x) / (2 * a), lower_bound)
        step = max(a * (f - gamma - lb) + d @ x, 0) / (d @ d)
        taken.add(step < lr)
        tau = min(lr, step)
        if adapt_lower_bound:
            lb = max(f - gamma + d @ x - tau * (d @ d) / 2, lower_bound)
        x = (x - tau * d) / a
        yield x, {"barf": f, "gamma": gamma, "lb": lb, "count": t}
    assert taken == {True, False}, "both steps are to be taken"


def momo_adam(
    x: Any, gradient: Any, value: Any, learning_rate: Any = 1e-2, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    lower_bound: float = 0.0, weight_decay: float = 0.0, adapt_lower_bound: bool = False,
) -> Iterator[Any]:  # fmt: skip
    (d, v), f, gamma, lb, taken = np.zeros((2, x.size)), 0.0, 0.0, lower_bound, set()
    for t in range(1, STEPS + 1):
        g, lr, rho = gradient(t, x), at(learning_rate, t), 1 - b1**t
        d, v = b1 * d + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        f = b1 * f + (1 - b1) * value(t, x)
        gamma = b1 * gamma + (1 - b1) * (g @ x)
        D = np.sqrt(v / (1 - b2**t)) + eps
        a = 1 + lr * weight_decay
        if adapt_lower_bound and a * (f - gamma) + d @ x < a * rho * lb:
            lb = max((a * (f - gamma) + d @ x) / (2 * a * rho), lower_bound)
        step = max(a * (f - rho * lb - gamma) + d @ x, 0) / (d @ (d / D))
        taken.add(step < lr / rho)
        tau = min(lr / rho, step)
        if adapt_lower_bound:
            lb = max((f - gamma + d @ x - tau * (d @ (d / D)) / 2) / rho, lower_bound)
        x = (x - tau * d / D) / a
        yield x, {"barf": f, "gamma": gamma, "lb": lb, "count": t}
    assert taken == {True, False}, "both steps are to be taken"


def norm(x: Any) -> Any:
    return np.sqrt(np.sum(x**2))


def dog(
    x: Any, gradient: Any, value: Any,
    learning_rate: Any = 1.0, init_step: Any = ("heuristic", 1e-6), eps: float = 1e-8, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    start, (kind, size), total = x, init_step, 0.0
    r = {"heuristic": size * (1 + norm(x)), "distance": size, "learning_rate": 0.0}[kind]
    for t in range(1, STEPS + 1):
        g = gradient(t, x) + weight_decay * x
        r = max(r, norm(x - start))
        total += g @ g
        rate = size if t == 1 and kind == "learning_rate" else r / np.sqrt(total + eps)
        x = x - at(learning_rate, t) * rate * g
        yield x, {"max_dist": r, "sum_sq_norm_grads": total, "is_init_step": False}


def dowg(
    x: Any, gradient: Any, value: Any,
    learning_rate: Any = 1.0, init_estim_sq_dist: Any = None, eps: float = 1e-4, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    start, v, r2 = x, 0.0, eps if init_estim_sq_dist is None else init_estim_sq_dist
    for t in range(1, STEPS + 1):
        g = gradient(t, x) + weight_decay * x
        r2 = max(r2, norm(x - start) ** 2)
        v += r2 * (g @ g)
        x = x - at(learning_rate, t) * r2 / (np.sqrt(v) + eps) * g
        yield x, {"estim_sq_dist": r2, "weighted_sq_norm_grads": v}


def over(x: Any, y: Any) -> Any:
    return np.divide(x, y, where=y > 0, out=np.zeros_like(x))


def prodigy(
    x: Any, gradient: Any, value: Any, learning_rate: Any = 1.0, betas: Any = (0.9, 0.999), beta3: Any = None,
    eps: float = 1e-8, estim_lr0: float = 1e-6, estim_lr_coef: float = 1.0, weight_decay: float = 0.0,
    safeguard_warmup: bool = False, bias_correction: bool = True,
) -> Iterator[Any]:  # fmt: skip
    (b1, b2), start, d, r = betas, x, estim_lr0, 0.0
    b3 = np.sqrt(b2) if beta3 is None else beta3
    m, v, s = np.zeros((3, x.size))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        c = np.sqrt(1 - b2**t) / (1 - b1**t) if bias_correction else 1
        w = d * at(learning_rate, t) * c
        r = b3 * r + d / estim_lr0 * w * (g @ (start - x))
        s = b3 * s + d / estim_lr0 * (d if safeguard_warmup else w) * g
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d**2 * g**2
        d = max(d, estim_lr_coef * r / np.sum(np.abs(s)))
        x = x - w * (over(m, np.sqrt(v) + d * eps) + weight_decay * x)
        yield x, {"estim_lr": d, "numerator_weighted": r, "count": t}


def dadapt_adamw(
    x: Any, gradient: Any, value: Any, learning_rate: Any = 1.0, betas: Any = (0.9, 0.999), eps: float = 1e-8,
    estim_lr0: float = 1e-6, weight_decay: float = 0.0, bias_correction: bool = True,
) -> Iterator[Any]:  # fmt: skip
    (b1, b2), d, r = betas, estim_lr0, 0.0
    b3 = np.sqrt(b2)
    m, v, s = np.zeros((3, x.size))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        c = np.sqrt(1 - b2**t) / (1 - b1**t) if bias_correction else 1
        w = d * at(learning_rate, t) * c
        r = b3 * r + (1 - b3) * w * (g @ over(s, np.sqrt(v) + eps))
        s = b3 * s + (1 - b3) * w * g
        m = b1 * m + (1 - b1) * w * g
        v = b2 * v + (1 - b2) * g**2
        d = max(d, r / ((1 - b3) * np.sum(np.abs(s))))
        x = x - over(m, np.sqrt(v) + eps) - weight_decay * w * x
        yield x, {"estim_lr": d, "numerator_weighted": r, "count": t}


def mechanic(
    x: Any, gradient: Any, value: Any, rate: Any = 1.0, weight_decay: float = 1e-2, eps: float = 1e-8,
    s_init: float = 1e-6, num_betas: int = 6, bounded: bool = True,
) -> Iterator[Any]:  # fmt: skip
    """Algorithm 1 over gradient descent, with its signs: Delta adds up the updates of the base."""
    betas, start, delta = 1 - 0.1 ** np.arange(1, num_betas + 1), x, np.zeros(x.size)
    m, v, r = np.zeros((3, num_betas))
    s = np.full(num_betas, s_init)
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        decay = weight_decay * np.sum(s) * np.sqrt(g @ g) / (np.sqrt(x @ x) + eps)
        # What is left of Delta when x - x_0 is divided by the scale and eps.
        h = (g + decay * x) @ (delta * np.sum(s) / (np.sum(s) + eps) if t > 1 else delta)
        delta = (x - start) / (np.sum(s) + eps) - at(rate, t) * g
        won = np.clip(-h, -m, m) if bounded else -h
        m = np.maximum(betas * m, abs(h) + eps)
        v = betas**2 * v + h**2
        r = betas * r + s * won
        r = r if bounded else np.maximum(r, 0)
        s = (s_init / num_betas * m + np.maximum(r, 0)) / (np.sqrt(v) + eps)
        x = start + np.sum(s) * delta
        yield x, {"r": r, "m": m, "v": v, "s": s, "count": t}


def schedule_free_plus(
    x: Any, gradient: Any, value: Any, learning_rate: Any = 1.0, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8,
    weight_decay: float = 0.0, sf_b1: Any = 0.9, weight_lr_power: float = 2.0, r: float = 0.0, polyak_beta: float = 0.0,
    c_warmup: int = 0, offset: float = 8.0,
) -> Iterator[Any]:  # fmt: skip
    """`AdamCScheduleFreePlusPaper.step_func`."""
    y, z, m, v, l1, top, total = x, x, 0 * x, 0 * x, 0.0, eps, 0.0
    for t in range(1, STEPS + 1):
        g, beta = gradient(t, y), at(sf_b1, t)
        ip = beta * (g @ (z - x))
        l1 = polyak_beta * l1 + (1 - polyak_beta) * np.abs(g).sum() * np.sqrt(np.pi / 2)
        rate = at(learning_rate, t) * max(0.0, value(t, y) + offset + ip) / (l1 / (1 - polyak_beta**t))
        top = max(top, rate)
        if t <= c_warmup:
            c = 1.0
        else:
            total += t**r * top**weight_lr_power
            c = t**r * top**weight_lr_power / total
        z = z - rate**2 * weight_decay * y
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        z = z - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        x = (1 - c) * x + c * z
        y = beta * x + (1 - beta) * z
        yield y, {"norm": l1, "max_lr": top, "weight_sum": total, "sf_b1": beta, "count": t}
