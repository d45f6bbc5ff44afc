"""Which stacks of matrices share a round: on each device of a mesh one matrix, of whatever stack."""

from collections.abc import Mapping


def shared_rounds(counts: Mapping[int, int], places: int) -> list[dict[int, int]]:
    """What is left of stacks after whole rounds, packed into as few rounds as first-fit finds.

    A round costs what its widest matrix costs, since all devices wait for it. So the widest go first, and each goes to
    the narrowest round that has room for all that is left of its stack.

    Args:
      counts: of the matrices, by their number of columns; of rows they have equally many.
      places: matrices of a round, one on each device.

    Returns:
      For each round of more than one stack the matrices of each, by their number of columns, the widest first.
    """
    rounds: list[dict[int, int]] = []
    for columns in sorted(counts, reverse=True):
        left = counts[columns] % places
        if left:
            room = [r for r in rounds if sum(r.values()) + left <= places]
            if not room:
                room = [{}]
                rounds += room
            room[-1][columns] = left
    return [r for r in rounds if len(r) > 1]
