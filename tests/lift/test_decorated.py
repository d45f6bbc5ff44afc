"""Rules under decorators, partials, methods, objects and `jax.jit` do what the plain ones do."""

import dataclasses
import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.lift import future_annotations
from tests.trees import assert_close, assert_equal

PARAMS = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.full((2, 2), 3.0)}
GRADS = {"a": jnp.asarray([0.5, 1.0]), "b": jnp.full((2, 2), -1.0)}


def passed_on(f: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **kwargs)

    return call


def by_method(f: Callable[..., Any]) -> Callable[..., Any]:
    class Owner:
        @functools.wraps(f)
        def call(self, *args: Any, **kwargs: Any) -> Any:
            return f(*args, **kwargs)

    Owner.call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *inspect.signature(f).parameters.values()]
    )
    return Owner().call


@dataclasses.dataclass  # which has no hash
class Called:
    f: Callable[..., Any]

    def __post_init__(self) -> None:
        self.__signature__ = inspect.signature(self.f)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.f(*args, **kwargs)


DECORATORS: dict[str, Callable[..., Any]] = {
    "wraps": passed_on,
    "wraps twice": lambda f: passed_on(passed_on(f)),
    "partial": lambda f: functools.partial(f),
    "partial of a wrapped one": lambda f: functools.partial(passed_on(f)),
    "method": by_method,
    "object": Called,
    "jit": jax.jit,
    "jit of a wrapped one": lambda f: jax.jit(passed_on(f)),
}


class OwnState(NamedTuple):
    count: Any
    total: Any
    m: Any


class Wrapping(NamedTuple):
    inner_state: Any
    count: Any
    total: Any
    m: Any


def rule(g, s, p, t, rate, scale=2.0):
    m, total = 0.5 * s.m + rate / t * g, s.total + rate
    return m / scale + p + total / t, s._replace(m=m, total=total)


def around(u, g, s, p, t, rate, scale=2.0):
    return u * scale + rule(g, s, p, t, rate, scale)[0], s._replace(m=s.m + u, total=s.total + rate)


def plain(f: Callable[..., Any]) -> Callable[..., Any]:
    return f


def results(decorated: Callable[..., Any]) -> list[Any]:
    shared = {"total": gdjax.Shared()}
    alone = gdjax.leafwise(OwnState, **shared)(decorated(rule))
    outer = gdjax.wrapper(Wrapping, **shared)(decorated(around))
    rate = gdjax.linear_schedule(0.1, 0.3, 5)
    found = []
    for tx in (alone(rate, scale=3.0), outer(gdjax.sgd(0.1), rate, scale=3.0)):
        state = tx.init(PARAMS)
        step = jax.jit(tx.update)
        found += [step(GRADS, step(GRADS, state, PARAMS)[1], PARAMS)]
    return found


@functools.cache
def wanted() -> list[Any]:
    return results(plain)


@pytest.mark.parametrize("decorated", DECORATORS.values(), ids=DECORATORS)
def test_decorated_as_plain(decorated: Callable[..., Any]):
    """The rule, and the rule of a wrapper."""
    assert_close(results(decorated), wanted(), rtol=1e-6)


@pytest.mark.parametrize("decorated", [plain, *DECORATORS.values()], ids=["plain", *DECORATORS])
def test_a_rule_that_reads_what_is_not_there(decorated: Any):
    of_params = gdjax.leafwise()(decorated(lambda g, s, p, t: (g * p, s)))()
    with pytest.raises(ValueError, match=r"this transform needs params"):
        of_params.update(GRADS, of_params.init(PARAMS))
    of_steps = gdjax.leafwise()(decorated(lambda g, s, p, t: (g * t, s)))()
    with pytest.raises(TypeError, match=r"the rule uses `t`, which is None, since its state has no field `count`"):
        of_steps.update(GRADS, of_steps.init(PARAMS))


def test_arguments_marked_in_a_file_whose_annotations_are_text():
    of = future_annotations
    assert list(inspect.signature(of.scaled).parameters) == ["rate"]
    assert list(inspect.signature(of.wrapped).parameters) == ["inner", "rate"]
    assert list(inspect.signature(of.by_rank).parameters) == ["table"]
    u, _ = of.scaled(2.0).update(GRADS, of.scaled(2.0).init(PARAMS))
    assert_close(u["b"], 2 * np.sqrt(5.25) * GRADS["b"], rtol=1e-6)
    tx = of.by_rank({1: 2.0, 2: 3.0})
    u, _ = tx.update(GRADS, tx.init(PARAMS))
    assert_equal(u, {"a": 2 * GRADS["a"], "b": 3 * GRADS["b"]})
    tx = of.wrapped(gdjax.sgd(1.0), 2.0)
    assert pickle.loads(pickle.dumps(tx)) == tx
    u, _ = tx.update(GRADS, tx.init(PARAMS))
    assert_close(u["b"], -2 * np.sqrt(5.25) * GRADS["b"], rtol=1e-6)


def test_what_a_start_reads_is_an_argument_of_the_rule():
    with pytest.raises(TypeError, match=r"^gdjax\.leafwise: settings: the rule has no argument seed$"):
        gdjax.leafwise(OwnState, m=gdjax.Key("seed"))(rule)


def test_names_of_what_has_none():
    class Scaled:
        """Half of it."""

        def __call__(self, g, s, p, t, factor=0.5):
            return factor * g, s

    assert repr(gdjax.leafwise()(Scaled())()) == "Scaled(factor=0.5)"
    with pytest.raises(TypeError, match=r"^rule: unknown argument 'g'"):
        gdjax.leafwise()(functools.partial(rule))(g=1)


def annotated(
    g, s, p, t, b: Annotated[gdjax.Hyper, "[0, 1)"] = 0.9, eps: Annotated[float, "a name", "(0, inf)"] = 1e-8,
    size: Annotated[Any, gdjax.ScalarOrSchedule, "[-1, 2]"] | None = None,
):  # fmt: skip
    return b * g, s


def as_text(
    g,
    s,
    p,
    t,
    b: "Annotated[gdjax.Hyper, '[0, 1)']" = 0.9,
    eps: "Annotated[float, '(0, inf)']" = 1e-8,
    size: "Annotated[float, '[-1, 2]'] | None" = None,
    other: "NotThere" = 0.5,  # type: ignore[name-defined] # noqa: F821
):
    return b * g, s


@gdjax.transform
def of_two(b: Annotated[gdjax.ScalarOrSchedule, "[0, 1)"] = 0.9, eps: Annotated[float, "(0, inf)"] = 1e-8,
           size: Annotated[float, "[-1, 2]"] | None = None):  # fmt: skip
    return gdjax.scale(1.0)


def of_wrapper(
    u, g, s, p, t, b: Annotated[gdjax.Hyper, "[0, 1)"] = 0.9, eps: Annotated[float, "(0, inf)"] = 1e-8,
    size: Annotated[float, "[-1, 2]"] | None = None,
):  # fmt: skip
    return b * u, s


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (gdjax.wrapper()(of_wrapper), (gdjax.sgd(0.1),)),
        (gdjax.leafwise()(annotated), ()),
        (gdjax.leafwise()(as_text), ()),
        (of_two, ()),
    ],
    ids=["wrapper", "rule", "as text", "transform"],
)
def test_domains_of_ones_own(make: Any, first: Any):
    schedule = gdjax.linear_schedule(2.0, 3.0, 4)
    good = {"b": [0.0, 0.5, np.float32(0.9), 0, jnp.float32(0.5), jnp.bfloat16(0), schedule,
                  gdjax.per_leaf(0.5, {"a": 1.5})],
            "eps": [1e-30, 1e30], "size": [None, -1, 2, 0.5]}  # fmt: skip
    bad = {"b": [1.0, -0.1, 1.5, 1 - 1e-9, jnp.float32(1.5), jnp.bfloat16(-1), np.nan, np.inf,
                 gdjax.per_leaf(0.5, {"a": 2.0})],
           "eps": [0.0, np.inf, -1.0], "size": [-1.1, 2.5, np.nan]}  # fmt: skip
    inside = {"b": r"in \[0, 1\)", "eps": r"in \(0, inf\)", "size": r"in \[-1, 2\]"}
    label = inspect.signature(make) and make.__name__
    for name, values in good.items():
        for x in values:
            make(*first, **{name: x})
    for name, values in bad.items():
        for x in values:
            with pytest.raises(ValueError, match=rf"^{label}: {name}.* must be {inside[name]}(, and below .*)?, got "):
                make(*first, **{name: x})
    for x in ("0.5", True, None, [0.5]):
        with pytest.raises(TypeError, match=rf"^{label}: b must be a number, a scalar array or a schedule, got "):
            make(*first, b=x)


def test_the_domain_of_a_number_that_rounding_moves():
    own = gdjax.leafwise()(annotated)
    with pytest.raises(ValueError, match=r"b must be in \[0, 1\), and below 1 in float32 too, got 0.999999999$"):
        own(b=1 - 1e-9)
    with pytest.raises(ValueError, match=r"b must be in \[0, 1\), got 1.1$"):
        own(b=1.1)
    with pytest.raises(ValueError, match=r"eps must be in \(0, inf\), and above 0 in float32 too, got 1e-60"):
        own(eps=1e-60)


def test_domains_ask_no_traced_number_and_transfer_none():
    own = gdjax.leafwise()(annotated)
    for outside in (jnp.full(2, 1.5), jnp.full(2, 3)):
        jax.vmap(lambda b: own(b=b).init(PARAMS))(outside)  # the rates of a sweep
        jax.jit(lambda b: own(b=b).init(PARAMS))(outside[0])
    with jax.transfer_guard("disallow"):
        own(b=jax.device_put(np.float32(0.5)))
        with pytest.raises(ValueError, match="must be in"):
            own(b=jax.device_put(np.float32(1.5)))
    deleted = jnp.float32(1.5) + 0
    deleted.delete()
    own(b=deleted)
    with pytest.raises(TypeError, match=r"^annotated: b must be a real number, got key<"):
        own(b=jax.random.key(0))


@pytest.mark.parametrize("text", ["[0, 1", "[1, 0]", "[a, b]", "[nan, 1]", "(0, 1, 2)"])
def test_an_annotation_that_is_no_interval(text: str):
    def rule(g, s, p, t, b: Annotated[gdjax.Hyper, text] = 0.9):
        return b * g, s

    with pytest.raises(ValueError, match=r"^rule: the domain of b: .* is no interval such as '\[0, 1\)'"):
        gdjax.leafwise()(rule)


def test_the_signature_shows_the_type_and_not_the_domain():
    shown = inspect.signature(gdjax.leafwise()(annotated))
    assert str(shown) == (
        "(b: ScalarOrSchedule = 0.9, eps: float = 1e-08, size: ScalarOrSchedule | None = None)"
        " -> gdjax.core.base.GradientTransformation"
    )
    assert shown.parameters["b"].annotation == gdjax.ScalarOrSchedule


def unwrapped(f: Any) -> Any:
    return lambda *args, **kwargs: f(*args, **kwargs)


def test_a_decorator_that_hides_the_arguments():
    told = r"; the rule takes \*args, \*\*kwargs: does a decorator hide its arguments\? Write @functools.wraps\(rule\)"
    with pytest.raises(TypeError, match=rf"^<lambda>: unknown argument 'b'; it takes none{told} in it$"):
        gdjax.leafwise()(unwrapped(annotated))(b=0.5)
    with pytest.raises(TypeError, match=rf"^<lambda>: unknown argument 'b'; its arguments are inner{told} in it$"):
        gdjax.wrapper()(unwrapped(of_wrapper))(gdjax.sgd(0.1), b=0.5)
    with pytest.raises(TypeError, match=r"^annotated: unknown argument 'c'; its arguments are b, eps, size$"):
        gdjax.leafwise()(passed_on(annotated))(c=0.5)
    u, _ = gdjax.leafwise()(unwrapped(annotated))().update(GRADS, ())  # with the defaults it works
    assert_close(u, jax.tree.map(lambda g: 0.9 * g, GRADS))
