"""Stacks that share rounds: by hand, and what devices wait for on trees of real models."""

import pytest

from gdjax.linalg.stacks import shared_rounds


@pytest.mark.parametrize(
    "counts, places, wanted",
    [
        ({4: 8, 6: 16}, 8, []),  # nothing is left
        ({4: 3}, 8, []),  # nobody to share with
        ({4: 12, 6: 12}, 8, [{6: 4, 4: 4}]),
        ({4: 5, 6: 12}, 8, []),  # no room
        ({4: 1, 6: 2, 9: 3}, 8, [{9: 3, 6: 2, 4: 1}]),
        ({4: 4, 6: 5, 9: 2}, 8, [{9: 2, 6: 5}]),  # the wider ones first: they cost more
        ({4: 2, 6: 5, 9: 6}, 8, [{6: 5, 4: 2}]),  # into the narrowest
    ],
)
def test_by_hand(counts: dict[int, int], places: int, wanted: list[dict[int, int]]):
    assert shared_rounds(counts, places) == wanted


def imbalance(shapes: list[tuple[int, int, int]], places: int) -> float:
    """What the devices compute over what they would if all had equally much; shapes are (number, rows, columns).

    A step of Newton-Schulz has a product of m x n with its transpose, one of m x m, and one of m x m with m x n.
    """
    cost = lambda m, n: m * m * (2 * n + m)
    total, all_rounds = 0, 0
    for m in {rows for _, rows, _ in shapes}:
        counts = {n: k for k, rows, n in shapes if rows == m}
        total += sum(k * cost(m, n) for n, k in counts.items())
        whole = {n: -(-k // places) for n, k in counts.items()}
        for shared in shared_rounds(counts, places):
            for n in list(shared)[1:]:
                whole[n] -= 1
        all_rounds += sum(k * cost(m, n) for n, k in whole.items())
    return all_rounds * places / total


GPT2 = [(12, 768, 768), (12, 768, 2304), (24, 768, 3072)]
# 16 layers of width 1024 with 8 experts of width 2048, whose gates are the tall ones, transposed.
EXPERTS = [(64, 1024, 1024), (16 * 8 * 3, 1024, 2048)]


@pytest.mark.parametrize("places", [2, 4, 8])
def test_the_devices_have_equally_much(places: int):
    assert imbalance(EXPERTS, places) <= 1.1
    assert imbalance(GPT2, places) <= 1.1


def test_where_all_matrices_fit_into_one_round_it_costs_what_the_widest_one_does():
    total = 12 * 3 + 12 * 7 + 24 * 9
    assert imbalance(GPT2, 48) == pytest.approx(48 * 9 / total)
