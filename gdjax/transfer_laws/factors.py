"""The factors of rates, eps and starts that follow from how the sizes of a leaf grow, and from a law of updates."""

from typing import NamedTuple

from gdjax.core.growth import Law

# For the roles of what multiplies a vector by a matrix, the power of the inputs with which its numbers start. All other
# roles have one input.
STARTS = {"matrix": -0.5, "head": -1.0, "router": -1.0}


class Growth(NamedTuple):
    """What the sizes of a leaf are now, over what they are in the base."""

    role: str
    inputs: float = 1.0
    outputs: float = 1.0
    layers: float = 1.0  # how many more residual branches there are
    branch: str = ""  # "last" for the last matrix of a branch that takes the factor 1 / layers, "inside" for the others
    shapes: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))  # rows and columns of a matrix in the base, now


def start_factor(x: Growth, done: float = 0.0) -> float:
    """The factor of the scale at which a leaf starts, where matrices start with inputs^done already."""
    own = x.inputs ** (STARTS[x.role] - done) if x.role in STARTS else 1.0
    return own / x.layers if x.branch == "last" else own


def rate_factor(x: Growth, law: Law) -> float:
    """The factor of the rate: sqrt(outputs / inputs) over the law, and 1 / layers at the end of a branch."""
    wanted = 1 / x.layers if x.branch == "last" else 1.0
    if law.fits:
        return wanted
    if law.gradient and x.branch == "inside":
        wanted *= x.layers  # what comes back through the branch is that much smaller
    before, now = (_of_shape(x, law, *shape) for shape in x.shapes)
    powers = x.inputs ** (-0.5 - law.inputs) * x.outputs ** (0.5 - law.outputs)
    return wanted * powers * start_factor(x) ** -law.start * (before / now)


def _of_shape(x: Growth, law: Law, rows: int, columns: int) -> float:
    size = 1.0 if law.scale is None else law.scale(rows, columns)
    # The rows of a polar factor of an embedding are what its inputs select.
    return size * (min(rows, columns) / rows) ** 0.5 if law.full and x.role == "embedding" else size


def gradient_factor(x: Growth) -> float:
    """By how much the numbers of a gradient get larger."""
    return 1 / (x.outputs * x.layers) if x.branch == "inside" else 1 / x.outputs
