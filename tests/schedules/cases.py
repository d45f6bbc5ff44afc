"""Calls of every factory of schedules, with values they must give."""

import math
from typing import Any, NamedTuple

from gdjax import schedules

LAST = 2**31 - 1
GAMMA = 1 - 2**-10  # near 1 and exact in float32


class Case(NamedTuple):
    """A call of a factory, values it must give bit for bit, and values it must give to 4 ulp."""

    factory: str
    kwargs: dict[str, Any]
    exact: dict[int, float]
    near: dict[int, float] = {}

    def make(self, module: Any = schedules) -> Any:
        return getattr(module, self.factory)(**self.kwargs)


def half_cosine(x: float) -> float:
    """(1 + cos(pi x)) / 2, without its cancellation."""
    return math.sin(math.pi / 2 * (1 - x)) ** 2


CASES = {
    "constant": Case("constant_schedule", {"value": 0.3}, {t: 0.3 for t in (-1, 0, 1, 10**9)}),
    "linear": Case(
        "linear_schedule",
        {"init_value": 1.0, "end_value": 0.1, "transition_steps": 100},
        {-7: 1.0, 0: 1.0, 100: 0.1, 101: 0.1, 10**9: 0.1, LAST: 0.1},
        {1: 0.991, 49: 0.559, 50: 0.55, 51: 0.541, 99: 0.109},
    ),
    "linear_later": Case(
        "linear_schedule",
        {"init_value": 1e-9, "end_value": 3.0, "transition_steps": 7, "transition_begin": 5},
        {-1: 1e-9, 0: 1e-9, 1: 1e-9, 4: 1e-9, 5: 1e-9, 12: 3.0, 13: 3.0, LAST: 3.0},
        {6: 1e-9 + 3 / 7, 11: 18 / 7},
    ),
    "polynomial": Case(
        "polynomial_schedule",
        {"init_value": 0.0, "end_value": 0.1, "power": 3, "transition_steps": 1000, "transition_begin": 10},
        {0: 0.0, 9: 0.0, 10: 0.0, 1010: 0.1, 1011: 0.1, LAST: 0.1},
        {11: 0.1 * 2.997001e-3, 510: 0.0875, 1009: 0.1 * (1 - 1e-9)},
    ),
    "polynomial_root": Case(
        "polynomial_schedule",
        {"init_value": 0.5, "end_value": 0.0, "power": 0.5, "transition_steps": 100},
        {0: 0.5, 100: 0.0, 101: 0.0},
        {1: 0.5 * math.sqrt(0.99), 75: 0.25, 99: 0.05},
    ),
    "exponential": Case(
        "exponential_decay",
        {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.9, "transition_begin": 3},
        {-1: 1.0, 0: 1.0, 2: 1.0, 3: 1.0, 13: 0.9},
        {4: 0.9**0.1, 12: 0.9**0.9, 14: 0.9**1.1, 1003: 0.9**100, 1004: 0.9**100.1},
    ),
    "exponential_stairs": Case(
        "exponential_decay",
        {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.5, "staircase": True, "end_value": 0.1},
        {0: 1.0, 1: 1.0, 9: 1.0, 10: 0.5, 11: 0.5, 19: 0.5, 20: 0.25, 39: 0.125, 40: 0.1, LAST: 0.1},
    ),
    "exponential_growth": Case(
        "exponential_decay",
        {"init_value": 1e-3, "transition_steps": 10, "decay_rate": 2.0, "end_value": 0.1},
        {0: 1e-3, 67: 0.1, 1000: 0.1, 10**5: 0.1, LAST: 0.1},
        {1: 1e-3 * 2**0.1, 10: 2e-3, 66: 1e-3 * 2**6.6},
    ),
    "cosine": Case(
        "cosine_decay_schedule",
        {"init_value": 0.3, "decay_steps": 1000},
        {-1: 0.3, 0: 0.3, 1000: 0.0, 1001: 0.0, LAST: 0.0},
        {t: 0.3 * half_cosine(t / 1000) for t in (1, 250, 499, 500, 501, 750, 990, 999)},
    ),
    "cosine_power": Case(
        "cosine_decay_schedule",
        {"init_value": 2.0, "decay_steps": 100, "alpha": 0.1, "exponent": 1.5},
        {0: 2.0, 100: 0.2, 101: 0.2},
        {t: 0.2 + 1.8 * half_cosine(t / 100) ** 1.5 for t in (1, 30, 50, 99)},
    ),
    "warmup_constant": Case(
        "warmup_constant_schedule",
        {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10},
        {-1: 0.0, 0: 0.0, 10: 0.1, 11: 0.1, LAST: 0.1},
        {1: 0.01, 9: 0.09},
    ),
    "warmup_cosine": Case(
        "warmup_cosine_decay_schedule",
        {"init_value": 1e-5, "peak_value": 3e-4, "warmup_steps": 10, "decay_steps": 110, "end_value": 3e-5},
        {-1: 1e-5, 0: 1e-5, 10: 3e-4, 110: 3e-5, 111: 3e-5, LAST: 3e-5},
        {1: 3.9e-5, 9: 2.71e-4} | {t: 3e-5 + 2.7e-4 * half_cosine((t - 10) / 100) for t in (11, 60, 109)},
    ),
    "warmup_exponential": Case(
        "warmup_exponential_decay_schedule",
        {
            **{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "transition_steps": 20},
            **{"decay_rate": 0.5, "transition_begin": 5, "end_value": 0.2},
        },
        {0: 0.0, 10: 1.0, 11: 1.0, 15: 1.0, 35: 0.5, 55: 0.25, 62: 0.2, LAST: 0.2},
        {1: 0.1, 9: 0.9, 16: 0.5**0.05, 34: 0.5**0.95, 36: 0.5**1.05},
    ),
    "piecewise_constant": Case(
        "piecewise_constant_schedule",
        {"init_value": 1.0, "boundaries_and_scales": {200: 0.01, 100: 0.1, 300: 0.0}},
        {-1: 1, 0: 1, 1: 1, 99: 1, 100: 0.1, 101: 0.1, 199: 0.1, 200: 0.001, 299: 0.001, 300: 0.0, LAST: 0.0},
    ),
    "piecewise_linear": Case(
        "piecewise_interpolate_schedule",
        {"interpolate_type": "linear", "init_value": 1.0, "boundaries_and_scales": {8: 0.01, 4: 0.1}},
        {-1: 1.0, 0: 1.0, 4: 0.1, 8: 0.001, 9: 0.001, LAST: 0.001},
        {1: 0.775, 3: 0.325, 5: 0.07525, 7: 0.02575},
    ),
    "piecewise_cosine": Case(
        "piecewise_interpolate_schedule",
        {"interpolate_type": "cosine", "init_value": 0.1, "boundaries_and_scales": {10: 5.0, 30: 0.0}},
        {0: 0.1, 10: 0.5, 30: 0.0, 31: 0.0, LAST: 0.0},
        {1: 0.5 - 0.4 * half_cosine(0.1), 9: 0.5 - 0.4 * half_cosine(0.9), 11: 0.5 * half_cosine(0.05)},
    ),
    "powercool": Case(
        "powercool_schedule",
        {"peak_value": 0.5, "stable_steps": 20, "decay_steps": 80},
        {-1: 0.5, 0: 0.5, 20: 0.5, 100: 0.0, 101: 0.0, LAST: 0.0},
        {21: 0.5 * (79 / 80) ** 1.2, 60: 0.5 * 0.5**1.2, 99: 0.5 * 80**-1.2},
    ),
    "powercool_floor": Case(
        "powercool_schedule",
        {"peak_value": 1.0, "stable_steps": 0, "decay_steps": 10, "end_value": 0.1, "power": 2.0},
        {0: 1.0, 10: 0.1, 11: 0.1},
        {5: 0.1 + 0.9 / 4},
    ),
    "half_life": Case(
        "half_life_schedule",
        {"half_life": 3.0, "tokens_per_step": 12.0},
        {-1: 0.0625, 0: 0.0625, 7: 0.0625, LAST: 0.0625},
    ),
    "half_life_of_steps": Case("half_life_schedule", {"half_life": 1e6}, {}, {0: 2 ** (-1e-6), LAST: 2 ** (-1e-6)}),
    "rex": Case(
        "rex_schedule",
        {"init_value": 0.3, "end_value": 0.0, "transition_steps": 100, "transition_begin": 10},
        {-1: 0.3, 0: 0.3, 10: 0.3, 110: 0.0, 111: 0.0, LAST: 0.0},
        {11: 0.3 * 0.99 / 0.995, 60: 0.2, 109: 0.3 * 0.01 / 0.505},
    ),
    "rex_up": Case(
        "rex_schedule",
        {"init_value": 0.1, "end_value": 0.5, "transition_steps": 4},
        {0: 0.1, 4: 0.5, 5: 0.5},
        {1: 0.1 + 0.4 / 7, 2: 0.1 + 0.4 / 3, 3: 0.1 + 0.4 * 3 / 5},
    ),
    "warmup_linear": Case(
        "warmup_linear_decay_schedule",
        {"init_value": 0.0, "peak_value": 3e-4, "warmup_steps": 10, "decay_steps": 110},
        {-1: 0.0, 0: 0.0, 10: 3e-4, 110: 0.0, 111: 0.0, LAST: 0.0},
        {1: 3e-5, 9: 2.7e-4, 11: 2.97e-4, 60: 1.5e-4, 109: 3e-6},
    ),
    "wsd_linear": Case(
        "warmup_stable_decay_schedule",
        {
            **{"init_value": 0.01, "peak_value": 0.5, "warmup_steps": 10, "stable_steps": 30, "decay_steps": 20},
            **{"end_value": 0.1, "decay_shape": "linear"},
        },
        {0: 0.01, 10: 0.5, 11: 0.5, 40: 0.5, 60: 0.1, 61: 0.1, LAST: 0.1},
        {1: 0.059, 9: 0.451, 41: 0.48, 50: 0.3, 59: 0.12},
    ),
    "wsd_cosine": Case(
        "warmup_stable_decay_schedule",
        {
            **{"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 10, "stable_steps": 0, "decay_steps": 20},
            **{"end_value": 0.0, "decay_shape": "cosine"},
        },
        {0: 0.0, 10: 0.5, 30: 0.0, 31: 0.0, LAST: 0.0},
        {9: 0.45, 11: 0.5 * half_cosine(0.05), 20: 0.25, 29: 0.5 * half_cosine(0.95)},
    ),
    "wsd_1-sqrt": Case(
        "warmup_stable_decay_schedule",
        {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "stable_steps": 30, "decay_steps": 100},
        {0: 0.0, 10: 1.0, 40: 1.0, 140: 0.0, 141: 0.0, LAST: 0.0},
        {41: 0.9, 65: 0.5, 104: 0.2, 139: 1 - math.sqrt(0.99)},
    ),
    "inverse_sqrt": Case(
        "inverse_sqrt_schedule",
        {"init_value": 0.0, "peak_value": 0.2, "warmup_steps": 100},
        {0: 0.0, 100: 0.2},
        {1: 0.002, 99: 0.198, 101: 0.2 * math.sqrt(100 / 101), 400: 0.1, 10**4: 0.02, LAST: 2 / math.sqrt(LAST)},
    ),
    "inverse_sqrt_timescale": Case(
        "inverse_sqrt_schedule",
        {"init_value": 0.1, "peak_value": 0.2, "warmup_steps": 0, "timescale": 50.0},
        {-1: 0.2, 0: 0.2},
        {1: 0.2 * math.sqrt(50 / 51), 150: 0.1, 4950: 0.02},
    ),
    "power": Case(
        "power_schedule",
        {"peak_value": 0.01, "amplitude": 4.0, "exponent": -0.5, "warmup_steps": 10, "tokens_per_step": 4096},
        {0: 0.0, 10: 0.01, 39: 0.01},
        {1: 0.001, 9: 0.009, 40: 4 / math.sqrt(40 * 4096), 1000: 4 / math.sqrt(4096000), LAST: 2**-4 * LAST**-0.5},
    ),
    "power_alone": Case(
        "power_schedule",
        {"peak_value": 0.5, "amplitude": 1.0, "exponent": -1.0},
        {-1: 0.5, 0: 0.5, 1: 0.5, 2: 0.5, 4: 0.25, 8: 0.125},
        {3: 1 / 3, 10: 0.1},
    ),
    "log_time": Case(
        "log_time_schedule", {"delta": 8.0}, {7: 0.5, LAST: 1.0}, {-1: 1 / 9, 0: 1 / 9, 71: 0.9, 7991: 0.999}
    ),
    "triangular": Case(
        "cyclic_schedule",
        {"init_value": 0.1, "peak_value": 0.7, "up_steps": 10, "down_steps": 5},
        {-1: 0.1, 0: 0.1, 10: 0.7, 15: 0.1, 25: 0.7, 30: 0.1, 15000: 0.1, 15010: 0.7},
        {1: 0.16, 9: 0.64, 11: 0.58, 14: 0.22, 16: 0.16, 29: 0.22, 15001: 0.16},
    ),
    "triangular2": Case(
        "cyclic_schedule",
        {"init_value": 0.1, "peak_value": 0.9, "up_steps": 4, "mode": "triangular2"},
        {0: 0.1, 4: 0.9, 8: 0.1, 16: 0.1, 8000: 0.1, LAST: 0.1},
        {1: 0.3, 7: 0.3, 9: 0.2, 12: 0.5, 15: 0.2, 20: 0.3},
    ),
    "exp_range": Case(
        "cyclic_schedule",
        {"init_value": 0.0, "peak_value": 1.0, "up_steps": 4, "mode": "exp_range", "gamma": GAMMA},
        {0: 0.0, 8: 0.0, 800: 0.0},
        {1: 0.25 * GAMMA, 4: GAMMA**4, 7: 0.25 * GAMMA**7, 12: GAMMA**12, 8004: GAMMA**8004},
    ),
    "sgdr": Case(
        "sgdr_schedule",
        {
            "cosine_kwargs": [
                {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 5, "decay_steps": 25, "end_value": 0.1},
                {"decay_steps": 60, "init_value": 0.1, "peak_value": 0.3, "warmup_steps": 0, "exponent": 1.5},
            ]
        },
        {-1: 0.0, 0: 0.0, 5: 0.5, 25: 0.3, 85: 0.0, 86: 0.0, LAST: 0.0},
        {1: 0.1, 15: 0.3, 24: 0.1 + 0.4 * half_cosine(0.95), 55: 0.3 * 0.5**1.5, 70: 0.3 * half_cosine(0.75) ** 1.5},
    ),
    "linear_onecycle": Case(
        "linear_onecycle_schedule",
        {"transition_steps": 1000, "peak_value": 2.5},
        {-1: 0.1, 0: 0.1, 300: 2.5, 850: 0.1, 1000: 1e-5, 1001: 1e-5, LAST: 1e-5},
        {1: 0.108, 150: 1.3, 299: 2.492, 301: 2.5 - 2.4 / 550, 575: 1.3, 925: 0.050005, 999: 1e-5 + 0.09999 / 150},
    ),
    "cosine_onecycle": Case(
        "cosine_onecycle_schedule",
        {"transition_steps": 100, "peak_value": 1.0, "pct_start": 0.25, "div_factor": 10.0, "final_div_factor": 100.0},
        {-1: 0.1, 0: 0.1, 25: 1.0, 100: 1e-3, 101: 1e-3, LAST: 1e-3},
        {1: 1 - 0.9 * half_cosine(1 / 25), 24: 1 - 0.9 * half_cosine(24 / 25), 26: 1e-3 + 0.999 * half_cosine(1 / 75)},
    ),
}
