"""What frequencies and compressors get on the text of the language tasks, in the race's nats a byte.

python -m benchmarks.race.yardsticks
"""

import bz2
import gzip
import lzma
from collections.abc import Callable

import numpy as np
from small_lm import text

WHOLE = 256  # values of a byte


def of_frequencies(train: np.ndarray, held_out: np.ndarray, order: int) -> float:
    """Nats a byte of the frequencies after the last `order` bytes, 0 or 1, each counted once more than it was seen."""
    counts = np.ones((WHOLE**order, WHOLE))
    before = train[:-1] if order else np.zeros(len(train) - 1, int)
    np.add.at(counts, (before, train[1:]), 1)
    rates = np.log(counts / counts.sum(1, keepdims=True))
    return -float(rates[held_out[:-1] if order else 0, held_out[1:]].mean())


def compressed(held_out: np.ndarray, compress: Callable[[bytes], bytes]) -> float:
    """Nats a byte of the held-out text, compressed as a whole and without the rest."""
    data = held_out.astype(np.uint8).tobytes()
    return 8 * np.log(2) * len(compress(data)) / len(data)


def main() -> None:
    data = text.read()
    train, held_out = (np.asarray(x, int) for x in (data.train, data.held_out))
    print(f"{len(train):,} bytes, held out {len(held_out):,}; nats a byte")
    for name, found in {
        "unigram": of_frequencies(train, held_out, 0),
        "bigram": of_frequencies(train, held_out, 1),
        "gzip -9": compressed(held_out, lambda x: gzip.compress(x, 9)),
        "bzip2 -9": compressed(held_out, lambda x: bz2.compress(x, 9)),
        "xz -9": compressed(held_out, lambda x: lzma.compress(x, preset=9)),
    }.items():
        print(f"{name:10} {found:.3f}")


if __name__ == "__main__":
    main()
