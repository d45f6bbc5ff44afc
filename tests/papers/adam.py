"""The rules of Adam and its kin, as the papers have them: oracles of `tests.oracles`, of one array."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from tests.oracles import STEPS, at


def adam(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, mu_dtype: Any = None, nu_dtype: Any = None, nesterov: bool = False,
    weight_decay: Any = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    mu, nu = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * g**2
        mu_hat = mu / (1 - b1**t)
        if nesterov:
            mu_hat = b1 * mu / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        nu_hat = nu / (1 - b2**t)
        root = np.sqrt(nu_hat + eps_root) + eps
        u = np.where(root == 0, 0, mu_hat / np.where(root == 0, 1, root))
        if mask is None or np.ndim(x) > 1:
            u = u + at(weight_decay, t) * x
        x = x - at(learning_rate, t) * u
        mu, nu = stored(mu, mu_dtype), stored(nu, nu_dtype)
        yield x, {"mu": mu, "nu": nu}


def stored(x: Any, dtype: Any) -> Any:
    return x if dtype is None else np.float64(np.asarray(x).astype(dtype))


def acprop(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-16,
    eps_root: float = 1e-16, weight_decay: float = 0.0, new_mean: bool = False,
) -> Iterator[Any]:  # fmt: skip
    mu, nu = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        root = np.sqrt(nu / (1 - b2 ** (t - 1))) if t > 1 else np.ones(np.shape(x))
        x = x - at(learning_rate, t) * (g / (root + eps) + weight_decay * x)
        old, mu = mu, b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * (g - (mu if new_mean else old)) ** 2 + eps_root
        yield x, {"mu": mu, "nu": nu}


def adabelief(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-16,
    eps_root: float = 1e-16, nesterov: bool = False, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    m, s = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps_root
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        u = m_hat / (np.sqrt(s / (1 - b2**t)) + eps)
        x = x - at(learning_rate, t) * (u + weight_decay * x)
        yield x, {"mu": m, "nu": s}


def adam_atan2(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.99, a: float = 1.27, b: float = 1.0,
    weight_decay: Any = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """Adam with the paper's arc tangent, and decoupled decay."""
    m, v = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = a * np.arctan2(m / (1 - b1**t), b * np.sqrt(v / (1 - b2**t)))
        decay = at(weight_decay, t) if mask is None or np.ndim(x) > 1 else 0
        x = x - at(learning_rate, t) * (u + decay * x)
        yield x, {"mu": m, "nu": v}


def adamax(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    weight_decay: Any = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    m, u = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.abs(g) + eps)
        step = m / (1 - b1**t) / np.where(u == 0, 1, u)
        if mask is None or np.ndim(x) > 1:
            step = step + at(weight_decay, t) * x
        x = x - at(learning_rate, t) * step
        yield x, {"mu": m, "nu": u}


def adamc(
    x: Any, gradient: Any, learning_rate: Any, peak_learning_rate: float, b1: float = 0.9, b2: float = 0.999,
    eps: float = 1e-8, weight_decay: float = 1e-4, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """AdamW, with lr^2 / lr_max in place of lr before the decay."""
    mu = nu = 0.0
    for t in range(1, STEPS + 1):
        g, rate = gradient(t, x), at(learning_rate, t)
        mu, nu = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * g**2
        u = mu / (1 - b1**t) / (np.sqrt(nu / (1 - b2**t)) + eps)
        decay = weight_decay if mask is None or np.ndim(x) > 1 else 0
        x = x - rate * u - rate**2 / peak_learning_rate * decay * x
        yield x, {"mu": mu, "nu": nu}


def adan(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.98, b2: float = 0.92, b3: float = 0.99, eps: float = 1e-8,
    eps_root: float = 1e-8, weight_decay: Any = 0.0, mask: Any = None, proximal: bool = False, lookahead: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """In the reference's letters, where beta is 1 - b, with its code's bias corrections."""
    beta1, beta2, beta3 = 1 - b1, 1 - b2, 1 - b3
    ahead = 1 - beta2 if lookahead is None else lookahead
    m, v, n, before = (np.zeros(np.shape(x)) for _ in range(4))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        difference = g - before if t > 1 else np.zeros(np.shape(x))
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * difference
        n = (1 - beta3) * n + beta3 * (g + ahead * difference) ** 2
        rate = at(learning_rate, t)
        eta = rate / (np.sqrt(n / (1 - (1 - beta3) ** t) + eps_root) + eps)
        step = eta * (m / (1 - (1 - beta1) ** t) + ahead * v / (1 - (1 - beta2) ** t))
        decay = at(weight_decay, t) if mask is None or np.ndim(x) > 1 else 0
        x = (x - step) / (1 + decay * rate) if proximal else x - step - rate * decay * x
        before = g
        yield x, {"m": m, "v": v, "n": n, "g": g}


def adana(
    x: Any, gradient: Any, learning_rate: Any = 0.01, kappa: float = 0.85, delta: float = 8.0, eps: float = 1e-8,
    weight_decay: Any = 0.0,
) -> Iterator[Any]:  # fmt: skip
    mu, nu = np.zeros((2, *np.shape(x)))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        b = 1 - delta / (delta + t)
        mu = b * mu + (1 - b) * g
        nu = b * nu + (1 - b) * g**2
        direction = (g + (1 + t) ** (1 - kappa) * mu) / (np.sqrt(nu) + eps)
        x = x - at(learning_rate, t) * (direction + at(weight_decay, t) * x)
        yield x, {"mu": mu, "nu": nu}


def ademamix(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, b3: Any = 0.9999, alpha: Any = 5.0,
    eps: float = 1e-8, eps_root: float = 0.0, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    m1, m2, nu = np.zeros((3, *np.shape(x)))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        slow = at(b3, t)
        m1 = b1 * m1 + (1 - b1) * g
        m2 = slow * m2 + (1 - slow) * g
        nu = b2 * nu + (1 - b2) * g**2
        direction = m1 / (1 - b1**t) + at(alpha, t) * m2
        root = np.sqrt(nu / (1 - b2**t) + eps_root) + eps
        step = np.divide(direction, root, where=root > 0, out=np.zeros_like(m1))
        x = x - at(learning_rate, t) * (step + weight_decay * x)
        yield x, {"m1": m1, "m2": m2, "nu": nu}


def simplified(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.99, b2: float = 0.95, alpha: Any = 0.0, eps: float = 1e-8,
    eps_root: float = 0.0, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    m, n = np.zeros((2, *np.shape(x)))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + g
        n = b2 * n + (1 - b2) * g**2
        direction = (m + at(alpha, t) * g) / (np.sqrt(n / (1 - b2**t) + eps_root) + eps)
        x = x - at(learning_rate, t) * (direction + weight_decay * x)
        yield x, {"m": m, "n": n}


def adopt(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.9999, eps: float = 1e-6,
    nesterov: bool = False, use_clipping: bool = True,
) -> Iterator[Any]:  # fmt: skip
    """Algorithms 1 and 2: the first gradient, g_0, makes v_0 and no step."""
    nu, mu = gradient(1, x) ** 2, np.zeros(np.shape(x))
    yield x, {"mu": mu, "nu": nu}
    for t in range(1, STEPS):
        g = gradient(t + 1, x)
        n = g / np.maximum(np.sqrt(nu), eps)
        n = np.clip(n, -(t**0.25), t**0.25) if use_clipping else n
        mu = b1 * mu + (1 - b1) * n
        nu = b2 * nu + (1 - b2) * g**2
        x = x - at(learning_rate, t + 1) * (b1 * mu + (1 - b1) * n if nesterov else mu)
        yield x, {"mu": mu, "nu": nu}


def amsgrad(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, bias_correction_mu: bool = True, bias_correction_nu: bool = True, like: str = "optax",
) -> Iterator[Any]:  # fmt: skip
    m, v, v_max = (np.zeros(np.shape(x)) for _ in range(3))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        c = 1 - b2**t if bias_correction_nu else 1
        v_max = np.maximum(v_max, v if like == "torch" else v / c)
        m_hat = m / (1 - b1**t) if bias_correction_mu else m
        root = np.sqrt((v_max / c if like == "torch" else v_max) + eps_root) + eps
        x = x - at(learning_rate, t) * m_hat / np.where(root == 0, 1, root)
        yield x, {"mu": m, "nu": v, "nu_max": v_max}


def laprop(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-15,
    weight_decay: Any = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """The paper's rule, with b1 for its mu and b2 for its nu, and decoupled decay."""
    n, m = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        n = b2 * n + (1 - b2) * g**2
        m = b1 * m + (1 - b1) * g / (np.sqrt(n / (1 - b2**t)) + eps)
        decay = at(weight_decay, t) if mask is None or np.ndim(x) > 1 else 0
        x = x - at(learning_rate, t) * (m / (1 - b1**t) + decay * x)
        yield x, {"mu": m, "nu": n}


def nadam(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, momentum_decay: float = 0.004, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    """Algorithm 8 of Dozat's report: the constant mu in the average, the mu_t of section 3.6 in the step."""
    m, n, product = np.zeros(np.shape(x)), np.zeros(np.shape(x)), 1.0
    mu = [b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in range(STEPS + 2)]
    for t in range(1, STEPS + 1):
        g, product = gradient(t, x), product * mu[t]
        m = b1 * m + (1 - b1) * g
        n = b2 * n + (1 - b2) * g**2
        m_bar = (1 - mu[t]) * g / (1 - product) + mu[t + 1] * m / (1 - product * mu[t + 1])
        step = m_bar / (np.sqrt(n / (1 - b2**t) + eps_root) + eps)
        x = x - at(learning_rate, t) * (step + weight_decay * x)
        yield x, {"mu": m, "nu": n, "b1_product": product}


def radam(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, threshold: float = 5.0, nesterov: bool = False, like: str = "optax",
) -> Iterator[Any]:  # fmt: skip
    m, v = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        rho_inf, rho = 2 / (1 - b2) - 1, length(b2, t)
        step = m_hat
        if rho >= threshold:
            r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            if like == "torch":
                step = r * m_hat * np.sqrt(1 - b2**t) / (np.sqrt(v + eps_root) + eps)
            else:
                root = np.sqrt(v / (1 - b2**t) + eps_root) + eps
                step = r * m_hat / np.where(root == 0, 1, root)
        x = x - at(learning_rate, t) * step
        yield x, {"mu": m, "nu": v}


def length(b: float, t: int) -> float:
    """rho_t, exactly."""
    b_ = Fraction(b)
    return float(2 / (1 - b_) - 1 - 2 * t * b_**t / (1 - b_**t))


def stable_adamw(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-6,
    weight_decay: Any = 0.2, mask: Any = None, clipping_threshold: float | None = 1.0,
) -> Iterator[Any]:  # fmt: skip
    """Algorithm 2, with the eps of the authors' code in the mean: v, u are the averages with b1, b2 corrected."""
    v, u = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        beta1, beta2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (b1, b2))
        v = beta1 * v + (1 - beta1) * g
        u = beta2 * u + (1 - beta2) * g**2
        rms = np.sqrt(np.mean(g**2 / np.maximum(u, eps**2)))
        rate = at(learning_rate, t)
        if clipping_threshold is not None:
            rate = rate / max(1, rms / clipping_threshold)
        decay = at(weight_decay, t) if mask is None or np.ndim(x) > 1 else 0
        x = x - rate * decay * x - rate * v / (np.sqrt(u) + eps)
        yield x, {"mu": v * (1 - b1**t), "nu": u * (1 - b2**t)}


def yogi(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-3,
    eps_root: float = 0.0, initial_accumulator_value: float = 1e-6,
) -> Iterator[Any]:  # fmt: skip
    m, v = np.zeros(np.shape(x)), np.full(np.shape(x), initial_accumulator_value)
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g**2) * g**2
        step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        x = x - at(learning_rate, t) * step
        yield x, {"mu": m, "nu": v}


def lamb(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6,
    eps_root: float = 0.0, weight_decay: Any = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """One layer."""
    m, v = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        r = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        if mask is None or np.ndim(x) > 1:
            r = r + at(weight_decay, t) * x
        norms = [np.sqrt(np.sum(y**2)) for y in (x, r)]
        ratio = norms[0] / norms[1] if min(norms) > 0 else 1
        x = x - at(learning_rate, t) * ratio * r
        yield x, {"mu": m, "nu": v}


def novograd(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.25, eps: float = 1e-6,
    eps_root: float = 0.0, weight_decay: Any = 0.0,
) -> Iterator[Any]:  # fmt: skip
    """One layer; after the reference's loop, whose first step stands before it."""
    v, m = 0.0, 0.0
    for t in range(1, STEPS + 1):
        g = gradient(t, x)
        v = np.sum(g**2) if t == 1 else b2 * v + (1 - b2) * np.sum(g**2)
        term = g / (np.sqrt(v + eps_root) + eps) + at(weight_decay, t) * x
        m = term if t == 1 else b1 * m + term
        x = x - at(learning_rate, t) * m
        yield x, {"mu": m, "nu": v}
