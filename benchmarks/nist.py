"""NIST's 27 nonlinear regressions: data, two starts and certified values of each, and the model as a function.

    python benchmarks/nist.py FOLDER

writes nist.json from the 27 .dat files of the Statistical Reference Datasets, as they are published at
https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml (works of the United States government, in the public domain).
"""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

FILE = Path(__file__).with_suffix(".json")
Model = Callable[[Any, Any], Any]  # of parameters b and predictor x; the response


class Regression(NamedTuple):
    name: str
    y: np.ndarray  # (m,)
    x: np.ndarray  # (m,), Nelson's (2, m)
    starts: tuple[np.ndarray, np.ndarray]  # (n,) each
    certified: np.ndarray  # (n,), 11 digits
    sum_of_squares: float

    def residuals(self, b: Any) -> Any:
        return MODELS[self.name](b, jnp.asarray(self.x)) - jnp.asarray(self.y)


def exponentials(b: Any, x: Any) -> Any:
    return sum(b[i] * jnp.exp(-b[i + 1] * x) for i in (0, 2, 4))


def peaks(b: Any, x: Any) -> Any:
    decay = b[0] * jnp.exp(-b[1] * x)
    return decay + sum(b[i] * jnp.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5))


def ratio(degree: int) -> Model:
    """Polynomials of this degree; the denominator's constant is 1."""

    def model(b: Any, x: Any) -> Any:
        k = degree + 1
        return sum(b[i] * x**i for i in range(k)) / (1 + sum(b[k + i] * x ** (i + 1) for i in range(degree)))

    return model


def waves(b: Any, x: Any) -> Any:
    year, *others = (2 * jnp.pi * x / period for period in (12, b[3], b[6]))
    y = b[0] + b[1] * jnp.cos(year) + b[2] * jnp.sin(year)
    return y + sum(b[i] * jnp.cos(w) + b[i + 1] * jnp.sin(w) for i, w in zip((4, 7), others, strict=True))


def chwirut(b: Any, x: Any) -> Any:
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


MODELS: Mapping[str, Model] = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Chwirut1": chwirut,
    "Chwirut2": chwirut,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": waves,
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-(((x - b[2]) / b[1]) ** 2) / 2),
    "Gauss1": peaks,
    "Gauss2": peaks,
    "Gauss3": peaks,
    "Hahn1": ratio(3),
    "Kirby2": ratio(2),
    "Lanczos1": exponentials,
    "Lanczos2": exponentials,
    "Lanczos3": exponentials,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * jnp.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[0] * jnp.exp(-b[2] * x[1]),  # of the logarithm of the response
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / jnp.pi,
    "Thurber": ratio(3),
}


def regression(name: str) -> Regression:
    found = json.loads(FILE.read_text("utf-8"))[name]
    y, *x = np.array(found["data"], float).T
    b = np.array(found["parameters"], float).T
    y = np.log(y) if name == "Nelson" else y
    return Regression(name, y, np.squeeze(np.array(x)), (b[0], b[1]), b[2], found["sum_of_squares"])


def digits(found: Any, certified: Any) -> float:
    """The fewest digits that are right of any number, 11 at most: as many as are certified."""
    error = np.max(np.abs((np.asarray(found) - certified) / certified))
    return float(np.nan_to_num(np.clip(-np.log10(error), 0, 11))) if error != 0 else 11.0


def read(text: str) -> dict[str, Any]:
    """What a .dat file has."""
    rows = re.findall(r"^\s*b\d+ =\s+(\S+)\s+(\S+)\s+(\S+)\s+\S+\s*$", text, re.MULTILINE)
    total = re.search(r"Residual Sum of Squares:\s+(\S+)", text)
    count = re.search(r"(?:Number of Observations:\s+|^\s*)(\d+)(?: Observations)?\s*$", text, re.MULTILINE)
    assert total and count
    data = [[float(x) for x in line.split()] for line in text.splitlines()[60:] if line.strip()]
    if len(data) != int(count[1]):
        raise ValueError(f"{len(data)} observations, not {count[1]}")
    return {
        "parameters": [[float(x) for x in row] for row in rows],
        "sum_of_squares": float(total[1]),
        "data": data,
    }


if __name__ == "__main__":
    found = {name: read((Path(sys.argv[1]) / f"{name}.dat").read_text("utf-8")) for name in MODELS}
    lines = (f'"{name}": {json.dumps(x, separators=(",", ":"))}' for name, x in found.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
