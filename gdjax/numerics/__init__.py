"""Functions of arrays that two or more rules share."""

from gdjax.numerics.bounds import (  # noqa: F401
    below_overflow,
    bounded,
    bounded_sq,
    scaled,
    shrinking,
    spoiled,
    squarable,
    sum_sq,
)
from gdjax.numerics.elementwise import (  # noqa: F401
    Array,
    abs_sq,
    at_least_float32,
    complex_dtype,
    debias,
    divide,
    divisor,
    is_key,
    largest,
    one_minus_pow,
    peak,
    python_numbers,
    quotient,
    real_dtype,
    real_product,
    safe_increment,
    safe_int32_increment,
    scalar,
    sqrt,
    widen,
    widest_real,
)
from gdjax.numerics.norms import power_of_two, safe_root_mean_squares, unit_and_norm  # noqa: F401
