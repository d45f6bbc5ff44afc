"""Problems of Hock & Schittkowski 1981, Test examples for nonlinear programming codes, by their numbers there.

Those with constraints beside bounds, a start and a known minimum. Inequalities are at least 0, as in the book. Left out
are problems of long tables, and 47, which falls below the book's minimum.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

INF = math.inf
Function = Callable[..., Any]


class Problem(NamedTuple):
    """A problem as functions of one vector."""

    start: np.ndarray
    best: float  # the least value known
    f: Function
    equality: Function | None
    inequality: Function | None
    bounds: tuple[np.ndarray, np.ndarray] | None


PROBLEMS: dict[int, Problem] = {}


def problem(
    number: int, start: Any, best: float, f: Function, equality: Function | None = None,
    inequality: Function | None = None, lower: Any = -INF, upper: Any = INF,
) -> None:  # fmt: skip
    """Adds a problem; its functions take the numbers of the vector one by one, and return a number or a tuple."""
    x0 = np.array(start, float)
    of_vector = lambda g: g and (lambda x: jnp.stack(jnp.broadcast_arrays(*map(jnp.asarray, _row(g(*x))))))
    bounds = tuple(np.broadcast_to(np.array(b, float), x0.shape) for b in (lower, upper))
    free = all(np.isinf(b).all() for b in bounds)
    PROBLEMS[number] = Problem(
        x0, best, lambda x: jnp.asarray(f(*x), x.dtype), of_vector(equality), of_vector(inequality),
        None if free else (bounds[0], bounds[1]),
    )  # fmt: skip


def _row(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)


sin, cos, exp, log, sqrt, pi = jnp.sin, jnp.cos, jnp.exp, jnp.log, jnp.sqrt, math.pi
ROOT2, ROOT3 = math.sqrt(2), math.sqrt(3)
rosenbrock = lambda x, y: 100 * (y - x**2) ** 2 + (1 - x) ** 2

problem(6, [-1.2, 1], 0, lambda x, y: (1 - x) ** 2, lambda x, y: 10 * (y - x**2))
problem(7, [2, 2], -ROOT3, lambda x, y: log(1 + x**2) - y, lambda x, y: (1 + x**2) ** 2 + y**2 - 4)
problem(8, [2, 1], -1, lambda x, y: -1.0, lambda x, y: (x**2 + y**2 - 25, x * y - 9))
problem(9, [0, 0], -0.5, lambda x, y: sin(pi * x / 12) * cos(pi * y / 16), lambda x, y: 4 * x - 3 * y)
problem(10, [-10, 10], -1, lambda x, y: x - y, None, lambda x, y: -3 * x**2 + 2 * x * y - y**2 + 1)
problem(11, [4.9, 0.1], -8.498464223, lambda x, y: (x - 5) ** 2 + y**2 - 25, None, lambda x, y: y - x**2)
problem(12, [0, 0], -30, lambda x, y: x**2 / 2 + y**2 - x * y - 7 * x - 7 * y, None, lambda x, y: 25 - 4 * x**2 - y**2)
problem(13, [-2, -2], 1, lambda x, y: (x - 2) ** 2 + y**2, None, lambda x, y: (1 - x) ** 3 - y, 0)
problem(
    14, [2, 2], 9 - 2.875 * math.sqrt(7), lambda x, y: (x - 2) ** 2 + (y - 1) ** 2, lambda x, y: x - 2 * y + 1,
    lambda x, y: 1 - x**2 / 4 - y**2,
)  # fmt: skip
problem(15, [-2, 1], 306.5, rosenbrock, None, lambda x, y: (x * y - 1, x + y**2), -INF, [0.5, INF])
problem(16, [-2, 1], 0.25, rosenbrock, None, lambda x, y: (x + y**2, x**2 + y), [-0.5, -INF], [0.5, 1])
problem(17, [-2, 1], 1, rosenbrock, None, lambda x, y: (y**2 - x, x**2 - y), [-0.5, -INF], [0.5, 1])
problem(18, [2, 2], 5, lambda x, y: 0.01 * x**2 + y**2, None, lambda x, y: (x * y - 25, x**2 + y**2 - 25), [2, 0], 50)
problem(
    19, [20.1, 5.84], -6961.813875580, lambda x, y: (x - 10) ** 3 + (y - 20) ** 3, None,
    lambda x, y: ((x - 5) ** 2 + (y - 5) ** 2 - 100, 82.81 - (x - 6) ** 2 - (y - 5) ** 2), [13, 0], 100,
)  # fmt: skip
problem(
    20, [-2, 1], 81.5 - 25 * ROOT3, rosenbrock, None, lambda x, y: (x + y**2, x**2 + y, x**2 + y**2 - 1),
    [-0.5, -INF], [0.5, INF],
)  # fmt: skip
problem(21, [-1, -1], -99.96, lambda x, y: 0.01 * x**2 + y**2 - 100, None, lambda x, y: 10 * x - y - 10, [2, -50], 50)
problem(22, [2, 2], 1, lambda x, y: (x - 2) ** 2 + (y - 1) ** 2, None, lambda x, y: (2 - x - y, y - x**2))
problem(
    23, [3, 1], 2, lambda x, y: x**2 + y**2, None,
    lambda x, y: (x + y - 1, x**2 + y**2 - 1, 9 * x**2 + y**2 - 9, x**2 - y, y**2 - x), -50, 50,
)  # fmt: skip
problem(
    24, [1, 0.5], -1, lambda x, y: ((x - 3) ** 2 - 9) * y**3 / (27 * ROOT3), None,
    lambda x, y: (x / ROOT3 - y, x + ROOT3 * y, 6 - x - ROOT3 * y), 0,
)  # fmt: skip
problem(26, [-2.6, 2, 2], 0, lambda x, y, z: (x - y) ** 2 + (y - z) ** 4, lambda x, y, z: (1 + y**2) * x + z**4 - 3)
problem(27, [2, 2, 2], 0.04, lambda x, y, z: 0.01 * (x - 1) ** 2 + (y - x**2) ** 2, lambda x, y, z: x + z**2 + 1)
problem(28, [-4, 1, 1], 0, lambda x, y, z: (x + y) ** 2 + (y + z) ** 2, lambda x, y, z: x + 2 * y + 3 * z - 1)
problem(29, [1, 1, 1], -16 * ROOT2, lambda x, y, z: -x * y * z, None, lambda x, y, z: 48 - x**2 - 2 * y**2 - 4 * z**2)
problem(30, [1, 1, 1], 1, lambda x, y, z: x**2 + y**2 + z**2, None, lambda x, y, z: x**2 + y**2 - 1, [1, -10, -10], 10)
problem(
    31, [1, 1, 1], 6, lambda x, y, z: 9 * x**2 + y**2 + 9 * z**2, None, lambda x, y, z: x * y - 1,
    [-10, 1, -10], [10, 10, 1],
)  # fmt: skip
problem(
    32, [0.1, 0.7, 0.2], 1, lambda x, y, z: (x + 3 * y + z) ** 2 + 4 * (x - y) ** 2, lambda x, y, z: 1 - x - y - z,
    lambda x, y, z: 6 * y + 4 * z - x**3 - 3, 0,
)  # fmt: skip
problem(
    33, [0, 0, 3], ROOT2 - 6, lambda x, y, z: (x - 1) * (x - 2) * (x - 3) + z, None,
    lambda x, y, z: (z**2 - y**2 - x**2, x**2 + y**2 + z**2 - 4), 0, [INF, INF, 5],
)  # fmt: skip
exponentials = lambda x, y, z: (y - exp(x), z - exp(y))
problem(34, [0, 1.05, 2.9], -math.log(math.log(10)), lambda x, y, z: -x, None, exponentials, 0, [100, 100, 10])
problem(
    35, [0.5, 0.5, 0.5], 1 / 9,
    lambda x, y, z: 9 - 8 * x - 6 * y - 4 * z + 2 * x**2 + 2 * y**2 + z**2 + 2 * x * y + 2 * x * z, None,
    lambda x, y, z: 3 - x - y - 2 * z, 0,
)  # fmt: skip
problem(
    36, [10, 10, 10], -3300, lambda x, y, z: -x * y * z, None, lambda x, y, z: 72 - x - 2 * y - 2 * z, 0, [20, 11, 42]
)
problem(
    37, [10, 10, 10], -3456, lambda x, y, z: -x * y * z, None,
    lambda x, y, z: (72 - x - 2 * y - 2 * z, x + 2 * y + 2 * z), 0, 42,
)  # fmt: skip
problem(39, [2] * 4, -1, lambda a, b, c, d: -a, lambda a, b, c, d: (b - a**3 - c**2, a**2 - b - d**2))
problem(
    40, [0.8] * 4, -0.25, lambda a, b, c, d: -a * b * c * d,
    lambda a, b, c, d: (a**3 + b**2 - 1, a**2 * d - c, d**2 - b),
)  # fmt: skip
problem(
    41, [2] * 4, 52 / 27, lambda a, b, c, d: 2 - a * b * c, lambda a, b, c, d: a + 2 * b + 2 * c - d, None,
    0, [1, 1, 1, 2],
)  # fmt: skip
problem(
    42, [1] * 4, 28 - 10 * ROOT2, lambda a, b, c, d: (a - 1) ** 2 + (b - 2) ** 2 + (c - 3) ** 2 + (d - 4) ** 2,
    lambda a, b, c, d: (a - 2, c**2 + d**2 - 2),
)  # fmt: skip
problem(
    43, [0] * 4, -44, lambda a, b, c, d: a**2 + b**2 + 2 * c**2 + d**2 - 5 * a - 5 * b - 21 * c + 7 * d, None,
    lambda a, b, c, d: (
        8 - a**2 - b**2 - c**2 - d**2 - a + b - c + d, 10 - a**2 - 2 * b**2 - c**2 - 2 * d**2 + a + d,
        5 - 2 * a**2 - b**2 - c**2 - 2 * a + b + d,
    ),
)  # fmt: skip
problem(
    44, [0] * 4, -15, lambda a, b, c, d: a - b - c - a * c + a * d + b * c - b * d, None,
    lambda a, b, c, d: (
        8 - a - 2 * b, 12 - 4 * a - b, 12 - 3 * a - 4 * b, 8 - 2 * c - d, 8 - c - 2 * d, 5 - c - d
    ), 0,
)  # fmt: skip
problem(
    46, [ROOT2 / 2, 1.75, 0.5, 2, 2], 0,
    lambda a, b, c, d, e: (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6,
    lambda a, b, c, d, e: (a**2 * d + sin(d - e) - 1, b + c**4 * d**2 - 2),
)  # fmt: skip
problem(
    48, [3, 5, -3, 2, -2], 0, lambda a, b, c, d, e: (a - 1) ** 2 + (b - c) ** 2 + (d - e) ** 2,
    lambda a, b, c, d, e: (a + b + c + d + e - 5, c - 2 * (d + e) + 3),
)  # fmt: skip
problem(
    49, [10, 7, 2, -3, 0.8], 0, lambda a, b, c, d, e: (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6,
    lambda a, b, c, d, e: (a + b + c + 4 * d - 7, c + 5 * e - 6),
)  # fmt: skip
problem(
    50, [35, -31, 11, 5, -5], 0, lambda a, b, c, d, e: (a - b) ** 2 + (b - c) ** 2 + (c - d) ** 4 + (d - e) ** 2,
    lambda a, b, c, d, e: (a + 2 * b + 3 * c - 6, b + 2 * c + 3 * d - 6, c + 2 * d + 3 * e - 6),
)  # fmt: skip
squares = lambda a, b, c, d, e: (b + c - 2) ** 2 + (d - 1) ** 2 + (e - 1) ** 2
problem(
    51, [2.5, 0.5, 2, -1, 0.5], 0, lambda a, b, *x: (a - b) ** 2 + squares(a, b, *x),
    lambda a, b, c, d, e: (a + 3 * b - 4, c + d - 2 * e, b - e),
)  # fmt: skip
linear = lambda a, b, c, d, e: (a + 3 * b, c + d - 2 * e, b - e)
problem(52, [2] * 5, 1859 / 349, lambda a, b, *x: (4 * a - b) ** 2 + squares(a, b, *x), linear)
problem(53, [2] * 5, 176 / 43, lambda a, b, *x: (a - b) ** 2 + squares(a, b, *x), linear, None, -10, 10)
problem(
    55, [1, 2, 0, 0, 0, 2], 19 / 3, lambda a, b, c, d, e, f: a + 2 * b + 4 * e + exp(a * d),
    lambda a, b, c, d, e, f: (a + 2 * b + 5 * e - 6, a + b + c - 3, d + e + f - 2, a + d - 1, b + e - 2, c + f - 2),
    None, 0, [1, INF, INF, 1, INF, INF],
)  # fmt: skip
ANGLES = [math.asin(math.sqrt(1 / 4.2))] * 3 + [math.asin(math.sqrt(5 / 7.2))]
problem(
    56, [1, 1, 1, *ANGLES], -3.456, lambda a, b, c, *_: -a * b * c,
    lambda a, b, c, p, q, r, s: (
        a - 4.2 * sin(p) ** 2, b - 4.2 * sin(q) ** 2, c - 4.2 * sin(r) ** 2, a + 2 * b + 2 * c - 7.2 * sin(s) ** 2
    ),
)  # fmt: skip
problem(
    60, [2] * 3, 0.03256820025, lambda x, y, z: (x - 1) ** 2 + (x - y) ** 2 + (y - z) ** 4,
    lambda x, y, z: x * (1 + y**2) + z**4 - 4 - 3 * ROOT2, None, -10, 10,
)  # fmt: skip
problem(
    61, [0] * 3, -143.6461422, lambda x, y, z: 4 * x**2 + 2 * y**2 + 2 * z**2 - 33 * x + 16 * y - 24 * z,
    lambda x, y, z: (3 * x - 2 * y**2 - 7, 4 * x - z**2 - 11),
)  # fmt: skip
problem(
    62, [0.7, 0.2, 0.1], -26272.51448,
    lambda x, y, z: -32.174 * (
        255 * log((x + y + z + 0.03) / (0.09 * x + y + z + 0.03)) + 280 * log((y + z + 0.03) / (0.07 * y + z + 0.03))
        + 290 * log((z + 0.03) / (0.13 * z + 0.03))
    ),
    lambda x, y, z: x + y + z - 1, None, 0, 1,
)  # fmt: skip
problem(
    63, [2] * 3, 961.7151721, lambda x, y, z: 1000 - x**2 - 2 * y**2 - z**2 - x * y - x * z,
    lambda x, y, z: (8 * x + 14 * y + 7 * z - 56, x**2 + y**2 + z**2 - 25), None, 0,
)  # fmt: skip
problem(
    64, [1] * 3, 6299.842428, lambda x, y, z: 5 * x + 5e4 / x + 20 * y + 7.2e4 / y + 10 * z + 1.44e5 / z, None,
    lambda x, y, z: 1 - 4 / x - 32 / y - 120 / z, 1e-5,
)  # fmt: skip
problem(
    65, [-5, 5, 0], 0.9535288567, lambda x, y, z: (x - y) ** 2 + (x + y - 10) ** 2 / 9 + (z - 5) ** 2, None,
    lambda x, y, z: 48 - x**2 - y**2 - z**2, [-4.5, -4.5, -5], [4.5, 4.5, 5],
)  # fmt: skip
problem(66, [0, 1.05, 2.9], 0.5181632741, lambda x, y, z: 0.2 * z - 0.8 * x, None, exponentials, 0, [100, 100, 10])
problem(
    71, [1, 5, 5, 1], 17.0140173, lambda a, b, c, d: a * d * (a + b + c) + c,
    lambda a, b, c, d: a**2 + b**2 + c**2 + d**2 - 40, lambda a, b, c, d: a * b * c * d - 25, 1, 5,
)  # fmt: skip
problem(
    72, [1] * 4, 727.67937, lambda a, b, c, d: 1 + a + b + c + d, None,
    lambda a, b, c, d: (
        0.0401 - 4 / a - 2.25 / b - 1 / c - 0.25 / d, 0.010085 - 0.16 / a - 0.36 / b - 0.64 / c - 0.64 / d
    ),
    1e-3, [4e5, 3e5, 2e5, 1e5],
)  # fmt: skip
problem(
    73, [1] * 4, 29.89437816, lambda a, b, c, d: 24.55 * a + 26.75 * b + 39 * c + 40.5 * d,
    lambda a, b, c, d: a + b + c + d - 1,
    lambda a, b, c, d: (
        2.3 * a + 5.6 * b + 11.1 * c + 1.3 * d - 5,
        12 * a + 11.9 * b + 41.8 * c + 52.1 * d - 21
        - 1.645 * sqrt(0.28 * a**2 + 0.19 * b**2 + 20.5 * c**2 + 0.62 * d**2),
    ), 0,
)  # fmt: skip
for number, best, most in ((74, 5126.4981, 0.55), (75, 5174.4129, 0.48)):
    problem(
        number, [0] * 4, best, lambda a, b, c, d: 3 * a + 1e-6 * a**3 + 2 * b + 2e-6 / 3 * b**3,
        lambda a, b, c, d: (
            1000 * (sin(-c - 0.25) + sin(-d - 0.25)) + 894.8 - a,
            1000 * (sin(c - 0.25) + sin(c - d - 0.25)) + 894.8 - b,
            1000 * (sin(d - 0.25) + sin(d - c - 0.25)) + 1294.8,
        ),
        lambda a, b, c, d, most=most: (d - c + most, c - d + most),
        [0, 0, -most, -most], [1200, 1200, most, most],
    )  # fmt: skip
problem(
    76, [0.5] * 4, -4.681818181,
    lambda a, b, c, d: a**2 + b**2 / 2 + c**2 + d**2 / 2 - a * c + c * d - a - 3 * b + c - d, None,
    lambda a, b, c, d: (5 - a - 2 * b - c - d, 4 - 3 * a - b - 2 * c + d, b + 4 * c - 1.5), 0,
)  # fmt: skip
problem(
    77, [2] * 5, 0.24150513,
    lambda a, b, c, d, e: (a - 1) ** 2 + (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6,
    lambda a, b, c, d, e: (a**2 * d + sin(d - e) - 2 * ROOT2, b + c**4 * d**2 - 8 - ROOT2),
)  # fmt: skip
product = lambda a, b, c, d, e: a * b * c * d * e
three = lambda a, b, c, d, e: (a**2 + b**2 + c**2 + d**2 + e**2 - 10, b * c - 5 * d * e, a**3 + b**3 + 1)
problem(78, [-2, 1.5, 2, -1, -1], -2.91970041, product, three)
problem(
    79, [2] * 5, 0.0787768209,
    lambda a, b, c, d, e: (a - 1) ** 2 + (a - b) ** 2 + (b - c) ** 2 + (c - d) ** 4 + (d - e) ** 4,
    lambda a, b, c, d, e: (a + b**2 + c**3 - 2 - 3 * ROOT2, b - c**2 + d + 2 - 2 * ROOT2, a * e - 2),
)  # fmt: skip
BOX = np.array([2.3, 2.3, 3.2, 3.2, 3.2])
problem(80, [-2, 2, 2, -1, -1], 0.0539498478, lambda *x: exp(product(*x)), three, None, -BOX, BOX)
problem(
    81, [-2, 2, 2, -1, -1], 0.0539498478, lambda *x: exp(product(*x)) - (x[0] ** 3 + x[1] ** 3 + 1) ** 2 / 2, three,
    None, -BOX, BOX,
)  # fmt: skip


def _rates(a: Any, b: Any, c: Any, d: Any, e: Any) -> tuple[Any, ...]:
    p = 85.334407 + 0.0056858 * b * e + 0.0006262 * a * d - 0.0022053 * c * e
    q = 80.51249 + 0.0071317 * b * e + 0.0029955 * a * b + 0.0021813 * c**2
    r = 9.300961 + 0.0047026 * c * e + 0.0012547 * a * c + 0.0019085 * c * d
    return p, 92 - p, q - 90, 110 - q, r - 20, 25 - r


problem(
    83, [78, 33, 27, 27, 27], -30665.53867,
    lambda a, b, c, d, e: 5.3578547 * c**2 + 0.8356891 * a * e + 37.293239 * a - 40792.141, None, _rates,
    [78, 33, 27, 27, 27], [102, 45, 45, 45, 45],
)  # fmt: skip
C = np.array([[30, -20, -10, 32, -10], [-20, 39, -6, -31, 32], [-10, -6, 10, -6, -10], [32, -31, -6, 39, -20],
              [-10, 32, -10, -20, 30]], float)  # fmt: skip
A = np.array([[-16, 2, 0, 1, 0], [0, -2, 0, 0.4, 2], [-3.5, 0, 2, 0, 0], [0, -2, 0, -4, -1], [0, -9, -2, 1, -2.8],
              [2, 0, -4, 0, 0], [-1] * 5, [-1, -2, -3, -2, -1], [1, 2, 3, 4, 5], [1] * 5])  # fmt: skip
B, D, E = np.array([-40, -2, -0.25, -4, -4, -1, -40, -60, 5, 1]), np.array([4.0, 8, 10, 6, 2]), np.array(
    [-15.0, -27, -36, -18, -12]
)  # fmt: skip


def _of_vectors(f: Function) -> Function:
    return lambda *x: f(jnp.stack(x))


problem(
    86, [0, 0, 0, 0, 1], -32.34867897, _of_vectors(lambda x: E @ x + x @ C @ x + D @ x**3), None,
    _of_vectors(lambda x: tuple(A @ x - B)), 0,
)  # fmt: skip
_first = lambda a, b, c, d: a * d * (a + b + c)
_second = lambda a, b, c, d: b * c * (a + 1.57 * b + d)
problem(
    93, [5.54, 4.4, 12.02, 11.82, 0.702, 0.852], 135.075961,
    lambda a, b, c, d, e, f: (0.0204 + 0.0607 * e**2) * _first(a, b, c, d)
    + (0.0187 + 0.0437 * f**2) * _second(a, b, c, d), None,
    lambda a, b, c, d, e, f: (
        0.001 * a * b * c * d * e * f - 2.07,
        1 - 0.00062 * e**2 * _first(a, b, c, d) - 0.00058 * f**2 * _second(a, b, c, d),
    ), 0,
)  # fmt: skip
problem(
    100, [1, 2, 0, 4, 0, 1, 1], 680.6300573,
    lambda a, b, c, d, e, f, g: (a - 10) ** 2 + 5 * (b - 12) ** 2 + c**4 + 3 * (d - 11) ** 2 + 10 * e**6 + 7 * f**2
    + g**4 - 4 * f * g - 10 * f - 8 * g, None,
    lambda a, b, c, d, e, f, g: (
        127 - 2 * a**2 - 3 * b**4 - c - 4 * d**2 - 5 * e, 282 - 7 * a - 3 * b - 10 * c**2 - d + e,
        196 - 23 * a - b**2 - 6 * f**2 + 8 * g, -4 * a**2 - b**2 + 3 * a * b - 2 * c**2 - 5 * f + 11 * g,
    ),
)  # fmt: skip


def _reactors(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    return 0.4 * (a / g) ** 0.67 + 0.4 * (b / h) ** 0.67 + 10 - a - b


problem(
    104, [6, 3, 0.4, 0.2, 6, 6, 1, 0.5], 3.9511634396, _reactors, None,
    lambda a, b, c, d, e, f, g, h: (
        1 - 0.0588 * e * g - 0.1 * a, 1 - 0.0588 * f * h - 0.1 * a - 0.1 * b,
        1 - 4 * c / e - 2 * c**-0.71 / e - 0.0588 * c**-1.3 * g,
        1 - 4 * d / f - 2 * d**-0.71 / f - 0.0588 * d**-1.3 * h,
        _reactors(a, b, c, d, e, f, g, h) - 1, 4.2 - _reactors(a, b, c, d, e, f, g, h),
    ), 0.1, 10,
)  # fmt: skip
problem(
    106, [5000, 5000, 5000, 200, 350, 150, 225, 425], 7049.248020, lambda a, b, c, *_: a + b + c, None,
    lambda a, b, c, d, e, f, g, h: (
        1 - 0.0025 * (d + f), 1 - 0.0025 * (e + g - d), 1 - 0.01 * (h - e),
        a * f - 833.33252 * d - 100 * a + 83333.333, b * g - 1250 * e - b * d + 1250 * d,
        c * h - 1250000 - c * e + 2500 * e,
    ), [100, 1000, 1000, 10, 10, 10, 10, 10], [10000, 10000, 10000, 1000, 1000, 1000, 1000, 1000],
)  # fmt: skip
problem(
    108, [1] * 9, -ROOT3 / 2,
    lambda a, b, c, d, e, f, g, h, i: -(a * d - b * c + c * i - e * i + e * h - f * g) / 2, None,
    lambda a, b, c, d, e, f, g, h, i: (
        1 - c**2 - d**2, 1 - i**2, 1 - e**2 - f**2, 1 - a**2 - (b - i) ** 2, 1 - (a - e) ** 2 - (b - f) ** 2,
        1 - (a - g) ** 2 - (b - h) ** 2, 1 - (c - e) ** 2 - (d - f) ** 2, 1 - (c - g) ** 2 - (d - h) ** 2,
        1 - g**2 - (h - i) ** 2, a * d - b * c, c * i, -e * i, e * h - f * g,
    ), [-INF] * 8 + [0],
)  # fmt: skip
COSTS = np.array([-6.089, -17.164, -34.054, -5.914, -24.721, -14.986, -24.1, -10.708, -26.662, -22.179])
_atoms = lambda a, b, c, d, e, f, g, h, i, j: (
    a + 2 * b + 2 * c + f + j - 2, d + 2 * e + f + g - 1, c + g + h + 2 * i + j - 1
)  # fmt: skip
problem(
    111, [-2.3] * 10, -47.76109026,
    _of_vectors(lambda x: exp(x) @ (COSTS + x - log(exp(x).sum()))), lambda *x: _atoms(*map(exp, x)), None, -100, 100,
)  # fmt: skip
problem(112, [0.1] * 10, -47.76109086, _of_vectors(lambda x: x @ (COSTS + log(x / x.sum()))), _atoms, None, 1e-6)
problem(
    113, [2, 3, 5, 5, 1, 2, 7, 3, 6, 10], 24.3062091,
    lambda a, b, c, d, e, f, g, h, i, j: a**2 + b**2 + a * b - 14 * a - 16 * b + (c - 10) ** 2 + 4 * (d - 5) ** 2
    + (e - 3) ** 2 + 2 * (f - 1) ** 2 + 5 * g**2 + 7 * (h - 11) ** 2 + 2 * (i - 10) ** 2 + (j - 7) ** 2 + 45, None,
    lambda a, b, c, d, e, f, g, h, i, j: (
        105 - 4 * a - 5 * b + 3 * g - 9 * h, -10 * a + 8 * b + 17 * g - 2 * h, 8 * a - 2 * b - 5 * i + 2 * j + 12,
        -3 * (a - 2) ** 2 - 4 * (b - 3) ** 2 - 2 * c**2 + 7 * d + 120, -5 * a**2 - 8 * b - (c - 6) ** 2 + 2 * d + 40,
        -((a - 8) ** 2) / 2 - 2 * (b - 4) ** 2 - 3 * e**2 + f + 30,
        -(a**2) - 2 * (b - 2) ** 2 + 2 * a * b - 14 * e + 6 * f, 3 * a - 6 * b - 12 * (i - 8) ** 2 + 7 * j,
    ),
)  # fmt: skip
problem(
    117, [0.001] * 6 + [60] + [0.001] * 8, 32.34867897,
    _of_vectors(lambda x: -B @ x[:10] + x[10:] @ C @ x[10:] + 2 * D @ x[10:] ** 3), None,
    _of_vectors(lambda x: tuple(2 * C @ x[10:] + 3 * D * x[10:] ** 2 + E - A.T @ x[:10])), 0,
)  # fmt: skip


def _schedule(x: Any) -> tuple[Any, ...]:
    change = (x[3:] - x[:-3]).reshape(4, 3) + 7
    needed = x.reshape(5, 3).sum(1) - np.array([60.0, 50, 70, 85, 100])
    return *change.ravel(), *(np.array([13.0, 14, 13]) - change).ravel(), *needed


problem(
    118, [20, 55, 15] + [20, 60, 20] * 4, 664.8204500,
    _of_vectors(lambda x: x @ np.tile([2.3, 1.7, 2.2], 5) + x**2 @ np.tile([1e-4, 1e-4, 1.5e-4], 5)), None,
    _of_vectors(_schedule), [8, 43, 3] + [0] * 12, [21, 57, 16] + [90, 120, 60] * 4,
)  # fmt: skip
