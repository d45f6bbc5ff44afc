"""Classic problems of unconstrained minimization, badly scaled ones among them: sums of squares, and their starts.

Moré, Garbow & Hillstrom 1981, Testing unconstrained optimization software, https://doi.org/10.1145/355934.355936, whose
numbers are given in brackets; Misra1a is of NIST's Statistical Reference Datasets.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Classic(NamedTuple):
    residuals: Callable[[Any], Any]  # (n,) -> (m,)
    start: tuple[float, ...]
    minimum: float  # of half the sum of squares

    def f(self, x: Any) -> jax.Array:
        return 0.5 * jnp.sum(self.residuals(x) ** 2)


def rosenbrock(x: Any) -> Any:  # (1)
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def freudenstein_roth(x: Any) -> Any:  # (2)
    a, b = x
    return jnp.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def powell_badly_scaled(x: Any) -> Any:  # (3)
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def brown_badly_scaled(x: Any) -> Any:  # (4)
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x: Any) -> Any:  # (5)
    return jnp.asarray([1.5, 2.25, 2.625], x.dtype) - x[0] * (1 - jnp.stack([x[1], x[1] ** 2, x[1] ** 3]))


def jennrich_sampson(x: Any) -> Any:  # (6)
    i = jnp.arange(1, 11, dtype=x.dtype)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def helical_valley(x: Any) -> Any:  # (7)
    theta = jnp.arctan2(x[1], x[0]) / (2 * jnp.pi)
    return jnp.stack([10 * (x[2] - 10 * theta), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


MEYER = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]


def meyer(x: Any) -> Any:  # (10), NIST's MGH10
    t = 45 + 5 * jnp.arange(1, 17, dtype=x.dtype)
    return x[0] * jnp.exp(x[1] / (t + x[2])) - jnp.asarray(MEYER, x.dtype)


def box_three(x: Any) -> Any:  # (12)
    t = 0.1 * jnp.arange(1, 11, dtype=x.dtype)
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def wood(x: Any) -> Any:  # (14)
    a, b, c, d = x
    r = [10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c, 10**0.5 * (b + d - 2), 10**-0.5 * (b - d)]
    return jnp.stack(r)


def biggs_exp6(x: Any) -> Any:  # (18)
    t = 0.1 * jnp.arange(1, 14, dtype=x.dtype)
    y = jnp.exp(-t) - 5 * jnp.exp(-10 * t) + 3 * jnp.exp(-4 * t)
    return x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1]) + x[5] * jnp.exp(-t * x[4]) - y


def watson(x: Any) -> Any:  # (20), 6 numbers
    j = np.arange(x.size)
    powers = jnp.asarray((np.arange(1, 30)[:, None] / 29) ** j, x.dtype)
    first = powers[:, :-1] @ (jnp.asarray(j[1:], x.dtype) * x[1:]) - (powers @ x) ** 2 - 1
    return jnp.concatenate([first, jnp.stack([x[0], x[1] - x[0] ** 2 - 1])])


def penalty(x: Any) -> Any:  # (23), 4 numbers
    return jnp.concatenate([1e-5**0.5 * (x - 1), jnp.sum(x**2)[None] - 0.25])


def variably_dimensioned(x: Any) -> Any:  # (25), 10 numbers
    total = jnp.sum(jnp.arange(1, 11, dtype=x.dtype) * (x - 1))
    return jnp.concatenate([x - 1, jnp.stack([total, total**2])])


def trigonometric(x: Any) -> Any:  # (26), 10 numbers
    i = jnp.arange(1, 11, dtype=x.dtype)
    return 10 - jnp.sum(jnp.cos(x)) + i * (1 - jnp.cos(x)) - jnp.sin(x)


MISRA_X = [77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0]
MISRA_Y = [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78]


def misra1a(b: Any) -> Any:
    return b[0] * (1 - jnp.exp(-b[1] * jnp.asarray(MISRA_X, b.dtype))) - jnp.asarray(MISRA_Y, b.dtype)


CLASSICS = {
    "rosenbrock": Classic(rosenbrock, (-1.2, 1.0), 0),
    "freudenstein_roth": Classic(freudenstein_roth, (0.5, -2.0), 24.492126863),  # the lower one, 0, is not near
    "powell_badly_scaled": Classic(powell_badly_scaled, (0.0, 1.0), 0),
    "brown_badly_scaled": Classic(brown_badly_scaled, (1.0, 1.0), 0),
    "beale": Classic(beale, (1.0, 1.0), 0),
    "jennrich_sampson": Classic(jennrich_sampson, (0.3, 0.4), 62.181091146),
    "helical_valley": Classic(helical_valley, (-1.0, 0.0, 0.0), 0),
    "meyer": Classic(meyer, (0.02, 4000.0, 250.0), 43.972927585),
    "meyer_1": Classic(meyer, (2.0, 400000.0, 25000.0), 43.972927585),  # NIST's start 1
    "box_three": Classic(box_three, (0.0, 10.0, 20.0), 0),
    "wood": Classic(wood, (-3.0, -1.0, -3.0, -1.0), 0),
    "biggs_exp6": Classic(biggs_exp6, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), 0.0028278249),
    "watson": Classic(watson, (0.0,) * 6, 0.00114383503),
    "penalty": Classic(penalty, (1.0, 2.0, 3.0, 4.0), 1.12498875e-5),
    "variably_dimensioned": Classic(variably_dimensioned, tuple(1 - i / 10 for i in range(1, 11)), 0),
    "trigonometric": Classic(trigonometric, (0.1,) * 10, 1.39753e-5),
    "misra1a": Classic(misra1a, (500.0, 1e-4), 0.06227569447),
    "misra1a_2": Classic(misra1a, (250.0, 5e-4), 0.06227569447),
}
