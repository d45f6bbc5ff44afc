"""What a traced rule shows: the values that each of its outputs is computed from, and what outputs have in common."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var, jaxpr_as_fun

# Elementwise operations that cost more than to read their result again: a compiler does not repeat them.
DEAR = frozenset(
    "acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma div erf erf_inv erfc exp exp2 expm1 lgamma log log1p "
    "logistic pow rem rsqrt sin sinh sqrt tan tanh".split()
)
# Those that a compiler repeats in each loop that reads them.
CHEAP = frozenset(
    "abs add add_any and bitcast_convert_type broadcast_in_dim ceil clamp complex conj convert_element_type copy "
    "eq expand_dims floor ge gt imag integer_pow is_finite le lt max min mul ne neg nextafter not "
    "optimization_barrier or pad pcast platform_index pvary real reduce_precision reshape reshard round select_n "
    "sharding_constraint sign slice square squeeze stop_gradient sub transpose xor".split()
)


@dataclass
class Graph:
    """The values of a traced function as numbers, those of the functions it calls among them."""

    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)  # an output may be an input, or another output
    made_of: list[tuple[int, ...]] = field(default_factory=list)  # for each value, the values it is computed from
    sizes: list[int] = field(default_factory=list)
    numbers: dict[Var, int] = field(default_factory=dict)  # of the variables of the function, those it calls left out
    dear: set[int] = field(default_factory=set)  # not computed twice
    written: set[int] = field(default_factory=set)  # nor part of a loop with others: sums, products of matrices

    def reach(self, value: int, ends: Iterable[int]) -> frozenset[int]:
        """A value and all that it is computed from, up to `ends`, whose own making is left out."""
        stop, found, todo = set(ends), {value}, [value]
        while todo:
            x = todo.pop()
            new = [] if x in stop else [y for y in self.made_of[x] if y not in found]
            found.update(new)
            todo += new
        return frozenset(found)

    def new(self, made_of: tuple[int, ...], variable: Var | Literal) -> int:
        self.made_of.append(made_of)
        self.sizes.append(_size(variable))
        return len(self.sizes) - 1


def graph_of(closed: ClosedJaxpr) -> Graph:
    """The values of a traced function."""
    graph = Graph()
    graph.inputs = [graph.new((), v) for v in closed.jaxpr.invars]
    graph.numbers, graph.outputs = _extended(graph, closed.jaxpr, graph.inputs)
    return graph


def _extended(graph: Graph, jaxpr: Jaxpr, arguments: Sequence[int]) -> tuple[dict[Var, int], list[int]]:
    """The variables and outputs of a function called with values of the graph; its own values become part of that."""
    numbers = dict(zip(jaxpr.invars, arguments, strict=True)) | {v: graph.new((), v) for v in jaxpr.constvars}
    number = lambda v: graph.new((), v) if isinstance(v, Literal) else numbers[v]  # noqa: E731
    for equation in jaxpr.eqns:
        operands = [number(v) for v in equation.invars]
        inner = called(equation)
        if inner is not None:
            _, results = _extended(graph, inner, operands)
        else:
            results = [graph.new(tuple(operands), v) for v in equation.outvars]
            if equation.primitive.name == "broadcast_in_dim":
                graph.sizes[results[0]] = graph.sizes[operands[0]]  # read where it is
            names = {e.primitive.name for e in _innermost(equation)}
            if names & DEAR:
                graph.dear.update(results)
            if names - DEAR - CHEAP:
                graph.written.update(results)
        numbers.update(zip(equation.outvars, results, strict=True))
    return numbers, [number(v) for v in jaxpr.outvars]


def called(equation: JaxprEqn) -> Jaxpr | None:
    """The function that an equation calls with its own operands, and does nothing else; None for other equations."""
    if equation.primitive.name not in ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2"):
        return None
    inside = next(x for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if (x := equation.params.get(k)) is not None)
    inside = getattr(inside, "jaxpr", inside)
    return inside if len(inside.invars) == len(equation.invars) else None


def _innermost(equation: JaxprEqn) -> Iterator[Any]:
    """The equation or, of one with functions inside, theirs."""
    inside = _inside(equation)
    for e in (e for x in inside for e in x.eqns):
        yield from _innermost(e)
    if not inside:
        yield equation


def has_inside(equation: JaxprEqn, primitive: Primitive) -> bool:
    """Whether a function inside an equation, at any depth, has an equation of that primitive."""
    return any(e.primitive is primitive or has_inside(e, primitive) for x in _inside(equation) for e in x.eqns)


def _inside(equation: JaxprEqn) -> list[Any]:
    """The functions inside an equation."""
    inside = [getattr(x, "jaxpr", x) for x in _flat(equation.params.values())]
    return [x for x in inside if hasattr(x, "eqns")]


def _flat(xs: Iterable[Any]) -> Iterator[Any]:
    for x in xs:
        yield from _flat(x) if isinstance(x, tuple | list) else [x]


def without_unused(closed: ClosedJaxpr) -> ClosedJaxpr:
    """A traced function without the equations that none of its outputs needs."""
    return ClosedJaxpr(closed.jaxpr.replace(eqns=_needed(closed, closed.jaxpr.outvars)[0]), closed.consts)


def _needed(closed: ClosedJaxpr, wanted: Iterable[Any], known: Collection[Any] = ()) -> tuple[list[Any], set[Var]]:
    """The equations that values need, given those that are known, and all variables that are needed."""
    needed, left = {v for v in wanted if isinstance(v, Var)}, []
    for e in reversed(closed.jaxpr.eqns):
        if any(v in needed and v not in known for v in e.outvars):
            left.append(e)
            needed.update(v for v in e.invars if isinstance(v, Var))
    return left[::-1], needed


def with_inputs(closed: ClosedJaxpr, variables: Sequence[Var]) -> ClosedJaxpr:
    """A traced function with some values, each of an equation of its own, as further inputs."""
    given = {*variables}
    left = [e for e in closed.jaxpr.eqns if given.isdisjoint(e.outvars)]
    return ClosedJaxpr(closed.jaxpr.replace(eqns=left, invars=[*closed.jaxpr.invars, *variables]), closed.consts)


def made_of(closed: ClosedJaxpr, inputs: Iterable[Var], most: int) -> set[Var]:
    """The values of up to `most` numbers that are made of these inputs and constants alone, the inputs among them."""
    found, constants = {*inputs}, set[Var]()
    for e in closed.jaxpr.eqns:
        variables = {v for v in e.invars if isinstance(v, Var)}
        if variables <= constants and all(v.aval.shape == () for v in e.outvars):
            constants.update(e.outvars)
        elif variables <= found | constants and variables & found and all(_size(v) <= most for v in e.outvars):
            found.update(e.outvars)
    return found


def _size(variable: Var | Literal) -> int:
    return getattr(variable.aval, "size", 0)


class Evaluation:
    """The outputs of a traced function for given arguments, one by one; each equation is evaluated once."""

    def __init__(self, closed: ClosedJaxpr, known: Mapping[Var, Any]):
        self.closed, self.known = closed, dict(known)

    @classmethod
    def of(cls, closed: ClosedJaxpr, arguments: Sequence[Any]) -> "Evaluation":
        return cls(closed, dict(zip(closed.jaxpr.invars, arguments, strict=True)))

    def output(self, index: int) -> Any:
        return self.value(self.closed.jaxpr.outvars[index])

    def value(self, variable: Var | Literal) -> Any:
        if isinstance(variable, Literal):
            return jnp.asarray(variable.val, getattr(variable.aval, "dtype", None))
        if variable in self.closed.jaxpr.constvars:
            return jnp.asarray(self.closed.consts[self.closed.jaxpr.constvars.index(variable)])
        self._evaluate(*self._needed(variable))
        return self.known[variable]

    def replace(self, index: int, value: Any) -> None:
        """From now on what is made of that output is made of `value`."""
        variable = self.closed.jaxpr.outvars[index]
        if isinstance(variable, Var) and variable not in self.closed.jaxpr.invars:
            self.known[variable] = value

    def anew(self, index: int, outputs: Sequence[int], tie: Callable[[list[Any]], list[Any]]) -> Any:
        """An output computed apart, from what `tie` makes of the arguments and other outputs that it is made of.

        Smaller arrays, sums for instance, are taken from here as they are.
        """
        jaxpr = self.closed.jaxpr
        wanted = jaxpr.outvars[index]
        given = {*jaxpr.invars, *(jaxpr.outvars[i] for i in outputs)}
        known = {v: x for v, x in self.known.items() if v in given or _size(v) < _size(wanted)}
        _, used = Evaluation(self.closed, known)._needed(wanted)
        large = [v for v in used if _size(v) >= _size(wanted)]
        tied = dict(zip(large, tie([known[v] for v in large]), strict=True))
        return Evaluation(self.closed, known | tied).output(index)

    def _needed(self, variable: Var) -> tuple[list[Any], list[Var]]:
        """The equations that are left to evaluate for a variable, and the known variables they use."""
        left, needed = _needed(self.closed, [variable], self.known)
        return left, [v for v in self.known if v in needed]

    def _evaluate(self, equations: list[Any], used: list[Var]) -> None:
        if equations:
            new = [v for e in equations for v in e.outvars if v not in self.known and type(v) is Var]
            part = self.closed.jaxpr.replace(eqns=equations, invars=used, outvars=new)
            values = jaxpr_as_fun(ClosedJaxpr(part, self.closed.consts))(*(self.known[v] for v in used))
            self.known.update(zip(new, values, strict=True))
