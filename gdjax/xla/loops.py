"""The loops in which XLA:CPU writes the outputs of one leaf, in an order that copies nothing.

XLA:CPU computes each output of a program in a loop of its own. An output takes the place of an old array, the new
momentum that of the old one, only where no later loop reads the old one; else XLA copies it first: one temporary of the
leaf's size and one extra pass. Lion has two loops, where the caller adds the update to the parameter:

    0:  p - lr sign(b1 mu + (1 - b1) g)  over p        1:  b2 mu + (1 - b2) g  over mu

Loop 0 reads the old mu, which loop 1 overwrites: so loop 1 waits for loop 0. Adam's update is made of the new moments
alone, which XLA keeps: nothing waits. On other devices one kernel writes all the outputs of a leaf, and so does XLA:CPU
in its second mode (`fuse_cpu_outputs`) if each output is computed from inputs of its own.

Beside that, `compiled`: a quick compilation of programs that run once.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

__all__ = ["fuse_cpu_outputs"]

_SEVERAL = "xla_cpu_use_multi_output_fusion"

# What XLA:CPU does not compute again in a second loop that reads it.
_DEAR = frozenset("cbrt cos div erf exp exp2 expm1 log log1p logistic pow rsqrt sign sin sqrt tan tanh".split())

MOST = 20  # arrays and numbers that a loop may read to which XLA:CPU joins another

SMALL = 2**13  # elements of an array of which a copy costs less than to compile an order of loops


Tied = Literal["result", "place", "all", "own"]


class Loop(NamedTuple):
    """How one output is computed."""

    index: int  # of the output: 0 is the update, then come the new slots
    waits: tuple[int, ...]  # the outputs that are written before
    tied: Tied  # what waits for those: it, the array that it overwrites, or all it reads; or `write_order.own`
    held: bool  # later ones wait for it
    unrelated: bool  # it overwrites an old array whose values it does not read
    given: tuple[int, ...] = ()  # the new slots that it is made of, if it is its own


def fuse_cpu_outputs() -> None:
    """Lets XLA:CPU write several outputs in one loop, as it does for a GPU; to be called before JAX has started.

    It adds `--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true` to `XLA_FLAGS` of this process, where it
    may as well be from the beginning. A step of AdamW then moves 28 bytes a parameter in place of 40, one of Lion 20 in
    place of 28. The option is for the whole process: the model is compiled with it too, and may become slower. On other
    devices, and before JAX 0.10, nothing changes.

    Raises:
      RuntimeError: JAX has started, by an operation or a question for its devices, and reads `XLA_FLAGS` no more.

    Example:
      >>> import subprocess, sys
      >>> program = "import gdjax, os; gdjax.fuse_cpu_outputs(); print(os.environ['XLA_FLAGS'])"
      >>> run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
      >>> print(run.stdout.split("=")[-2:])
      ['xla_cpu_use_multi_output_fusion', 'true\\n']
    """
    flags, devices = os.environ.get("XLA_FLAGS", ""), jax.config.values["jax_num_cpu_devices"]
    if f"{_SEVERAL}=true" in flags:
        return
    try:
        for number in (devices + 1, devices):  # which JAX refuses once it has started
            jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError:
        raise RuntimeError(
            "gdjax.fuse_cpu_outputs: JAX has started, and reads XLA_FLAGS no more: call it first"
        ) from None
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options={_SEVERAL}=true".strip()
    writes_several.cache_clear()


@functools.cache
def writes_several() -> bool:
    """Whether XLA:CPU writes several outputs in one loop; see `fuse_cpu_outputs`."""
    return jax.__version_info__ >= (0, 10) and f"{_SEVERAL}=true" in os.environ.get("XLA_FLAGS", "")


def inputs_of(closed: ClosedJaxpr, output: int) -> set[int]:
    """The places of the inputs that an output of a traced function is made of."""
    # A call without results, such as one that prints, reads inputs and makes no output.
    jaxpr = closed.jaxpr.replace(eqns=[e for e in closed.jaxpr.eqns if e.outvars])
    _, used = dce_jaxpr(jaxpr, [i == output for i in range(len(jaxpr.outvars))])
    return {i for i, x in enumerate(used) if x}


def made_of_nothing(closed: ClosedJaxpr, first: int) -> list[Any]:
    """The values of the outputs of a traced function, from the first one on, that are made of none of its inputs."""
    jaxpr, used = dce_jaxpr(closed.jaxpr, [i >= first for i in range(len(closed.jaxpr.outvars))])
    assert not any(used)
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))()


def loops_of(closed: ClosedJaxpr, places: Sequence[int | None], size: int, selected: bool) -> list[Loop]:
    """The loops of traced rules, in an order in which they can be computed; an old slot that is kept has none.

    Args:
      places: for each output the input that it overwrites; the first may be None.
      size: of the leaf.
      selected: whether outputs are selected or the old arrays: what is made of a new slot is not made of its memory.
    """
    outs, ins = closed.jaxpr.outvars, closed.jaxpr.invars
    written = [i for i, place in enumerate(places) if i == 0 or place is not None and outs[i] is not ins[place]]
    unrelated = {i for i in written if i > 0 and places[i] not in inputs_of(closed, i)}
    several = writes_several()
    if closed.effects or size <= SMALL and not several:  # what prints is run once
        return [Loop(i, (), "result", False, i in unrelated) for i in written]
    summed, news = sums(closed, size), {outs[i]: i for i in written if i > 0 and isinstance(outs[i], Var)}
    if several and not summed:
        return _one_loop(closed, places, size, news, written, unrelated)
    order = _ordered({i: _operands(closed, i, {} if selected else news) for i in written}, places)
    if order.shared and not summed:  # XLA would write to memory what they share
        alone = _ordered({i: _operands(closed, i, {}) for i in written}, places)
        order = alone if alone.fits else order
    result = {i for i in written if summed or i in order.uses or places[i] is None or i in unrelated}
    # What is dear is made anew of inputs that wait: XLA would write to memory what loops share of it.
    how = lambda i: "all" if order.uses or _dear(closed, i, size) else "place"
    tied: dict[int, Tied] = {i: "result" if i in result else how(i) for i in written}
    # Without this XLA:CPU computes again the element that a later loop waits for. Of a slot that others are made of it
    # would write both.
    held = {i for waits in order.waits.values() for i in waits if i} if not order.uses else set()
    return [Loop(i, waits, tied[i], i in held, i in unrelated) for i, waits in order.waits.items()]


def _one_loop(
    closed: ClosedJaxpr, places: Sequence[int | None], size: int, news: Mapping[Var, int],
    written: Sequence[int], unrelated: set[int],
) -> list[Loop]:  # fmt: skip
    """The same where XLA:CPU writes all outputs of one dtype in one loop; see `gdjax.xla.write_order.own`.

    Of new slots of another dtype, which a loop before writes, an output is made as they are in memory; and the update
    of all new slots, where the loop of all would read more than XLA:CPU joins.
    """
    outs = closed.jaxpr.outvars
    apart = lambda i, j: outs[i].aval.dtype != outs[j].aval.dtype or i == 0 and crowded
    crowded = _operand_count(closed, size) > MOST
    operands = {i: _operands(closed, i, {v: j for v, j in news.items() if apart(i, j)}) for i in written}
    waits = {i: [j for j in before if apart(i, j)] for i, before in _ordered(operands, places).waits.items()}
    return [Loop(i, (*w,), "own", False, i in unrelated, (*operands[i][1],)) for i, w in waits.items()]


class _Order(NamedTuple):
    waits: dict[int, tuple[int, ...]]  # in order, for each output those before it that read what it overwrites
    uses: set[int]  # the outputs that are made of new slots
    fits: bool  # whether each comes after all that read what it overwrites
    shared: bool  # whether one waits for another, and is made of new slots as well


def _ordered(operands: Mapping[int, tuple[set[int], set[int]]], places: Sequence[int | None]) -> _Order:
    """The outputs, each after those that read what it overwrites, and after the new slots that it is made of.

    Args:
      operands: for each output the inputs and the new slots that it is made of.
    """
    waits: dict[int, tuple[int, ...]] = {}
    first = lambda i, j: i != j and (places[j] in operands[i][0] or i in operands[j][1])
    fits, left = True, list(operands)
    while left:
        later = {j: sum(first(i, j) for i in left) for j in left}
        j = min(left, key=lambda j: (later[j], j))  # in a circle an array is copied
        left.remove(j)
        fits = fits and not later[j]
        waits[j] = tuple(i for i in waits if places[j] in operands[i][0] and i not in operands[j][1])
    uses = {i for i, (_, slots) in operands.items() if slots}
    return _Order(waits, uses, fits, any(waits[i] for i in uses))


def _operands(closed: ClosedJaxpr, i: int, news: Mapping[Var, int]) -> tuple[set[int], set[int]]:
    """The inputs that an output is made of, and the new slots, where these are read as they are in memory."""
    given = [v for v in news if i == 0 or v is not closed.jaxpr.outvars[i]]
    found, number = inputs_of(made_of(closed, i, given), 0), len(closed.jaxpr.invars)
    return {j for j in found if j < number}, {news[given[j - number]] for j in found if j >= number}


def made_of(closed: ClosedJaxpr, i: int, known: Sequence[Any]) -> ClosedJaxpr:
    """An output as a function of the inputs and of some new slots."""
    jaxpr = closed.jaxpr
    left = [e for e in jaxpr.eqns if not {*e.outvars} <= {*known}]
    alone = jaxpr.replace(eqns=left, invars=[*jaxpr.invars, *known], outvars=jaxpr.outvars[i : i + 1])
    return ClosedJaxpr(dce_jaxpr(alone, [True], instantiate=True)[0], closed.consts)


def _operand_count(closed: ClosedJaxpr, size: int) -> int:
    """How many arrays and numbers a loop of all outputs reads, with the parameters and what makes outputs their own."""
    arrays = [v for v in closed.jaxpr.invars if getattr(v.aval, "size", 0) == size]
    return len(arrays) + len({*_numbers(closed.jaxpr, size)}) + 2


def _numbers(whole: Jaxpr, size: int) -> Iterator[Any]:
    """The numbers that are read by operations on arrays of a size."""
    for e in whole.eqns:
        if any(getattr(v.aval, "size", 0) == size for v in e.outvars):
            yield from (
                x if isinstance(x, Var) else complex(x.val) for x in e.invars if getattr(x.aval, "size", 0) == 1
            )
        for jaxpr in inside(e):
            yield from (x for x in _numbers(jaxpr, size) if not isinstance(x, Var))


def _dear(closed: ClosedJaxpr, i: int, size: int) -> bool:
    """Whether something dear of the size of the leaf is computed for an output."""
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [j == i for j in range(len(closed.jaxpr.outvars))])
    return not _DEAR.isdisjoint(_names(jaxpr, size))


def sums(closed: ClosedJaxpr, size: int) -> bool:
    """Whether traced rules add up an array of the size of the leaf."""
    return not {"reduce_sum", "reduce_max"}.isdisjoint(_names(closed.jaxpr, size))


def keeps(closed: ClosedJaxpr, size: int) -> bool:
    """Whether they also compute something dear of that size, which XLA:CPU then keeps in memory on the way."""
    return sums(closed, size) and not _DEAR.isdisjoint(_names(closed.jaxpr, size))


def _names(whole: Jaxpr, size: int) -> Iterator[str]:
    """The operations on arrays of a size."""
    for e in whole.eqns:
        if any(getattr(v.aval, "size", 0) == size for v in (*e.invars, *e.outvars)):
            yield e.primitive.name
        for jaxpr in inside(e):
            yield from _names(jaxpr, size)


def inside(equation: JaxprEqn) -> list[Jaxpr]:
    """The functions inside an equation."""
    params = [x for p in equation.params.values() for x in (p if isinstance(p, tuple | list) else [p])]
    return [x for p in params if hasattr(x := getattr(p, "jaxpr", p), "eqns")]


# The compiler would take minutes to compute the zeros of some states.
_QUICK = {
    "xla_disable_hlo_passes": "constant_folding",
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_SLOW = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # in half the time
_SMALL = 2**17  # up to so many numbers a slow program is fast enough


def compiled(lowered: Any, size: int) -> Any:
    """A lowered program, compiled for one run on `size` numbers."""
    try:
        return lowered.compile(compiler_options=_QUICK | _SLOW if size < _SMALL else _QUICK)
    except Exception:  # a compiler without these options
        return lowered.compile()
