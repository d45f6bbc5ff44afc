"""A state in fewer bits, around any transform."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.codes import formats
from gdjax.codes.rounding import FIRST_ROW, salt
from gdjax.combine.sites import sites
from gdjax.core import arrays, base, callers, checks, meshes, structures, types
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.growth import divides_by_norm
from gdjax.core.part import SlotKind
from gdjax.core.parts import StateArray, holding, state_arrays
from gdjax.core.paths import Pattern, mask_by_path
from gdjax.core.types import (
    Array,
    Count,
    KeyLike,
    Natural,
    OptState,
    Params,
    Transform,
    Updates,
    boxed_like,
    is_variable,
    unboxed,
)
from gdjax.numerics import safe_increment
from gdjax.xla.write_order import in_loops_of_its_own

__all__ = ["QuantizedState", "quantize_state"]

LABEL = "gdjax.quantize_state"


class QuantizedState(NamedTuple):
    """State of `quantize_state`."""

    count: Array  # () int32, updates made so far
    inner_state: OptState  # that of the transform inside, with codes in place of arrays


@transform
def quantize_state(
    inner: Transform, bits: Literal[8, 4] = 8, *, moments: formats.Name | None = None,
    squares: formats.Name | None = None, bases: formats.Name | None = None, factors: formats.Name = "float32",
    block_size: Count = 64, scale_dtype: Literal["float32", "bfloat16"] = "float32", min_size: Natural = 4096,
    exempt: Pattern | Sequence[Pattern] = (), seed: KeyLike = 0,
) -> GradientTransformation:  # fmt: skip
    """Keeps the state of any transform in 8 bits a number, 16 or 4, in place of 32.

        updates, state = inner.update(updates, decode(codes), params)
        codes = encode(state)

    The update is computed from the new state in float32, before that is encoded. AdamW then keeps 2.0 bytes a parameter
    in place of 8, and its step on a TPU moves 16 in place of 28. Slots say what they keep, and so how coarsely it may
    be kept:

    - pairs, an average of gradients and one of their squares, as of Adam and its variants: in one word of 16 bits.
      It has no scale and no end: each word depends on its two numbers alone, lies where they would on any mesh, and is
      made in the one pass of the step. Adam's updates are off by 16 % of their norm with b2 = 0.999, at random, and
      within 1 % as long. The field of the first has the word, that of the second a placeholder without arrays. A pair
      is kept apart where b1 > 0.975 sqrt(b2), as with 0.95 and 0.9: an update then fades so slowly that errors add up
      in it. So it is where an update is divided by its own norm, as in LAMB or `hyperball`: after a spike all of it is
      less than the errors of words. Where b1 or b2 is traced, injected or a schedule there are words, and b1 must stay
      below that: updates of rare gradients are up to 1.9 times as long else;
    - moments, averages of gradients: as "bfloat16", the default, "blocks", "fp8", "4 bits", that of 4 bits, "dynamic",
      "log";
    - squares, averages of squares: as "bfloat16", the default, "blocks", that beside the others of 8 bits and 4,
      "dynamic", "log". A square above 0 never becomes 0, by which an update would divide;
    - maxima, and averages that gradients are compared with, as of AMSGrad and AdaBelief: as bfloat16 by default and
      where moments or squares are, else as they are;
    - bases, the eigenvectors of SOAP and the like: as "blocks", the default of 8 bits, "fp8", "4 bits", that of
      4 bits, "bfloat16";
    - factors, the Kronecker factors of Shampoo, SOAP and the like: as "float32", the default, "blocks", "bfloat16".
      This has an error of 0.5 % of the largest eigenvalue in blocks, of 1 % with a block for each row, of 0.1 % in
      bfloat16: the bases of SOAP bear that, the roots of Shampoo may not;
    - the rest stays as it is: counts, keys, sums that never fade, copies of parameters, the memory of L-BFGS,
      accumulated gradients, and fields of transforms of others with names that Optax does not use.

    Numbers become one of the two codes beside them, at random, so that the mean is right: to the nearest they would
    stop fading, since b2 = 0.999 moves them by less than half a step between two codes.

    "float32" leaves a kind as it is. By default no number depends on its neighbours. "blocks", "fp8" and "4 bits" keep
    numbers relative to the largest in a block: where in each step 0.1 % of the elements get gradients 10,000 times as
    large, the others move a third as far with "blocks", and Adam's updates are off by 3 % of their norm where all
    gradients are of like sizes.
    Where blocks do not divide the rows, each row is a block; where rows are shorter than blocks, arrays are kept as
    bfloat16. "dynamic" is that of bitsandbytes, rounded to the nearest, for runs that must agree with it; its squares
    may become 0.

    "log" is 8 bits of the logarithm for each number, in steps of 1.35, without scales and so one pass, as words are.
    Adam's updates are off by 35 % of their norm and longer by a tenth; it is for single moments where blocks are too
    slow. It ends, for moments and roots of squares at 2^11.2: with gradients of an rms above 1,000 updates are up to 1;
    and below at 2^-44, which shows with an eps below 1e-13. The others have no end. So "log" is for moments and squares
    together: whichever is named brings the other.

    Random bits come from the seed, the step, the array and the place of the element in it, so that one device and eight
    agree. In `shard_map`, where a function sees a share, it is the place in that.

    Args:
      inner: a transform, of another library too.
      bits: 8, or 4 for moments and bases; squares keep 8.
      moments, squares, bases: how a kind is kept; None for the default, or for what goes with the other: "log" beside
        "log", "blocks" beside "blocks", "fp8", "4 bits" and "dynamic". There are words where
        neither `moments` nor `squares` is named, and `bits` is 8.
      factors: how Kronecker factors are kept, whatever `bits` says.
      block_size: how many neighbours along the second-last axis share a scale; even for 4 bits. Where it does not
        divide that axis, and the last is as long or longer, all along the last share one.
      scale_dtype: of the scales. With "bfloat16" and blocks of 32 they take as much as with "float32" and 64.
      min_size: arrays of fewer elements stay as they are, and so do all of float64.
      exempt: which parameters' arrays stay as they are: regular expressions, searched for anywhere in the paths, or
        predicates of `(path, leaf)`. It does not reach what SOAP and the like keep of several parameters in one array.
      seed: of the random bits, an integer or a key.

    Raises:
      ValueError: `bits`, a kind, `block_size` or `scale_dtype` is none of these; of moments and squares one is "log",
        the other not; (in init) a pattern of `exempt` matches no parameter, or a transform inside keeps codes already;
        (in update) the state has codes of other formats, or none: `migrate` makes a state of one of the other. A state
        in blocks, once the default, goes on as it is.

    Warns:
      UserWarning: (in init) there are large arrays, and all of them must stay exact.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((128, 64))}
      >>> adamw = gdjax.adamw(1e-3)
      >>> coded = gdjax.quantize_state(adamw)
      >>> gdjax.state_bytes(adamw, params), gdjax.state_bytes(coded, params)
      (65540, 16392)

    Reference:
      Dettmers et al. 2022, 8-bit optimizers via block-wise quantization, https://arxiv.org/abs/2110.02861. Departures:
      words of two moments, bfloat16, codes that are logarithms, or relative to blocks of a column; all round at random.
    """
    base.check_transform(LABEL, 0, inner)
    pairs = bits == 8 and moments is None and squares is None
    kinds = formats.of_kinds(LABEL, _names(bits, moments, squares, bases, factors), block_size, scale_dtype)
    known = [*kinds.values(), *formats.before(block_size, scale_dtype)] if pairs else [*kinds.values()]
    exempts = tuple(exempt) if isinstance(exempt, Sequence) and not isinstance(exempt, str) else (exempt,)
    types.check_patterns(f"{LABEL}: exempt", exempts)

    def init(params: Params) -> QuantizedState:
        params = unboxed(params, is_variable)  # nnx makes a State of codes that lie in a Variable
        state = inner.init(params)
        if any(map(formats.is_codes, jax.tree.leaves(state, is_leaf=formats.is_codes))):
            raise ValueError(f"{LABEL}: a transform inside keeps codes already, by a {LABEL} of its own")
        exempted = {i for i, x in enumerate(jax.tree.leaves(mask_by_path(*exempts)(params) if exempts else [])) if x}
        slots, sizes = state_arrays(inner, state, params), _sizes(inner, state, params)
        large = [
            i for i, (x, size) in enumerate(zip(slots, sizes, strict=True))
            if _is_narrow_float(x.array) and size >= min_size and x.leaf not in exempted
        ]  # fmt: skip
        if large and all(slots[i].kind == "exact" for i in large):
            names = (jax.tree_util.keystr(slots[i].field[-1:]).strip(".[]'") for i in large)
            fields = structures.few(dict.fromkeys(names))
            callers.warn(f"{LABEL}: the state is as large as without it: {fields} must stay exact, see docs/memory.md")
        words = pairs and not any(divides_by_norm(site.growth) for site in sites(inner))
        codes = _coded(slots, large, kinds, words)
        return QuantizedState(jnp.zeros((), jnp.int32), jax.tree.structure(state).unflatten(codes))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, QuantizedState]:
        try:
            checks.state(LABEL, state, QuantizedState)
        except ValueError as e:
            raise ValueError(f"{e}; of the state of the transform inside, gdjax.migrate makes one") from None
        formats.check(LABEL, state, known, pairs)
        word = seed if isinstance(seed, int) else jax.random.bits(arrays.fresh_key(seed))
        count, old, row = safe_increment(state.count), state.inner_state, extra_args.get(FIRST_ROW, 0)
        pure, params = (unboxed(x, is_variable) for x in (updates, params))

        def of_codes(old: OptState, pure: Updates) -> Any:
            return base.call_update(inner, pure, formats.decoded(old), params, extra_args)

        us, new = of_codes(old, pure)
        if formats.has_words(old):
            new = formats.with_words(new, in_loops_of_its_own(lambda *xs: of_codes(*xs)[1], new, old, pure), old)
        return boxed_like(updates, us), QuantizedState(
            count, formats.encoded(new, old, lambda i: salt(word, count, i, row))
        )

    return holding(init, update, inner_state=inner)


def _names(bits: int, moments: Any, squares: Any, bases: Any, factors: str) -> dict[SlotKind, str]:
    """The name of the format of each kind, with the defaults of `quantize_state`."""
    coarse = "4 bits" if bits == 4 else None
    apart = bits == 8 and {moments, squares} <= {None, "bfloat16", "float32"}  # no number knows its neighbours
    other = "log" if "log" in (moments, squares) else "bfloat16" if apart else "blocks"
    moment, square = moments or coarse or other, squares or other
    if (moment == "log") != (square == "log"):
        both = f"moments as {moment!r} and squares as {square!r}"
        raise ValueError(f"{LABEL}: {both}: 'log' ends at a largest number, where the other goes on; name it for both")
    fine = "bfloat16" if "bfloat16" in (moment, square) else "float32"
    names: dict[SlotKind, str] = dict.fromkeys(formats.MOMENT_KINDS, moment)
    names |= {"square": square, "basis": bases or coarse or "blocks", "factor": factors, "fine": fine}
    return names


def _sizes(inner: Transform, state: OptState, params: Params) -> list[int]:
    """The sizes that the arrays of a state have on one device; on a mesh stacks have room for more matrices."""
    if meshes.mesh() is not None:
        with meshes.owned_by(None):
            state = jax.eval_shape(lambda params: inner.init(params), params)
    return [x.size for x in jax.tree.leaves(state)]


def _is_narrow_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize <= 4


def _coded(
    slots: Sequence[StateArray], large: Sequence[int], kinds: Mapping[SlotKind, Sequence[formats.Format]], words: bool
) -> list[Any]:
    """The arrays of a state, with codes in place of large ones whose kind has a format for them.

    Args:
      large: the places of those that may be coded.
      words: whether a moment and the square beside it become one word.
    """
    codes = [x.array for x in slots]
    wide = {i: slots[i].array.astype(jnp.float32) for i in large}
    places: dict[Any, int] = {(slots[i].field, slots[i].leaf): i for i in large}
    for i, v in wide.items():
        moment = places.get((slots[i].bounds, slots[i].leaf))
        if words and moment is not None and v.shape == wide[moment].shape:
            codes[moment], codes[i] = formats.encode(formats.WORDS, (wide[moment], v)), formats.InWord()
    for i, x in wide.items():
        format = formats.of_shape(kinds[slots[i].kind], x.shape)
        if format is not None and not formats.is_codes(codes[i]):
            codes[i] = formats.encode(format, x)
    return codes
