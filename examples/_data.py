"""The data of the examples: sets that come with scikit-learn, shuffled and split; and mini-batches."""

from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets


class Split(NamedTuple):
    x: np.ndarray  # (n, features) float32
    y: np.ndarray  # (n,) int32 classes, or float32


def divide(x: np.ndarray, y: np.ndarray, test: int) -> tuple[Split, Split]:
    """Training and test examples, shuffled."""
    order = np.random.default_rng(0).permutation(len(y))
    x = x[order].astype(np.float32)
    y = y[order].astype(np.int32 if y.dtype.kind == "i" else np.float32)
    return Split(x[test:], y[test:]), Split(x[:test], y[:test])


def standard(train: Split, test: Split) -> tuple[Split, Split]:
    """Features of mean 0 and standard deviation 1 over the training examples."""
    mean, sd = train.x.mean(axis=0), train.x.std(axis=0)
    return train._replace(x=(train.x - mean) / sd), test._replace(x=(test.x - mean) / sd)


def digits(test: int = 450) -> tuple[Split, Split]:
    """1,797 handwritten digits: 64 pixels in [0, 1], ten classes. The file is in the order of the writers."""
    data: Any = datasets.load_digits()
    return divide(data.data / 16, data.target, test)


def breast_cancer(test: int = 169) -> tuple[Split, Split]:
    """569 tumours: 30 measurements, class 1 is benign."""
    data: Any = datasets.load_breast_cancer()
    return standard(*divide(data.data, data.target, test))


def diabetes(test: int = 142) -> tuple[Split, Split]:
    """442 patients: ten measurements, and the progression of the disease a year later."""
    data: Any = datasets.load_diabetes()
    return standard(*divide(data.data, data.target, test))


def orders(n: int, batch: int, epochs: int, seed: int = 1) -> np.ndarray:
    """(epochs, n // batch, batch) indices of the examples of every mini-batch, in a new order in every epoch."""
    rng, steps = np.random.default_rng(seed), n // batch
    chosen = [rng.permutation(n)[: steps * batch].reshape(steps, batch) for _ in range(epochs)]
    return np.stack(chosen).astype(np.int32)


def mislabelled(split: Split, part: float) -> Split:
    """With random ones for a part of the ten labels."""
    rng = np.random.default_rng(0)
    replaced = rng.random(len(split.y)) < part
    return split._replace(y=np.where(replaced, rng.integers(0, 10, len(split.y)), split.y).astype(np.int32))
