"""A warning points to the line that called the library, whatever lies between the call and the warning."""

import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core import callers

PARAMS = {"embedding": jnp.ones((4, 2)), "kernel": jnp.ones((2, 2)), "qkv": jnp.ones((2, 6)), "bias": jnp.ones(2)}
LABELS = {"embedding": "a", "kernel": "a", "qkv": "a", "bias": "a"}
ADAM = gdjax.adam(0.1)
AVERAGE = gdjax.params_ema(gdjax.scale_by_adam(), 0.9)
ROLES = gdjax.matrices_by_role({"nowhere": "other"})
GROUPS = gdjax.partition({"a": ADAM, "b": ADAM}, LABELS)
BY_PATH = gdjax.partition({"a": ADAM, "b": ADAM}, gdjax.label_by_path({"nowhere": "b", ".*": "a"}))
MUON = gdjax.muon(0.1, muon_weight_dimension_numbers=ROLES)

WARNS: dict[str, Callable[[], Any]] = {
    "partition": lambda: GROUPS.init(PARAMS),
    "partition in a chain": lambda: gdjax.chain(gdjax.clip(1.0), GROUPS).init(PARAMS),
    "partition under jit": lambda: jax.jit(GROUPS.init)(PARAMS),
    "partition under eval_shape": lambda: jax.eval_shape(gdjax.chain(GROUPS).init, PARAMS),
    "label_by_path": lambda: BY_PATH.init(PARAMS),
    "label_by_path alone": lambda: gdjax.label_by_path({"nowhere": "b", ".*": "a"})(PARAMS),
    "matrices_by_role": lambda: MUON.init(PARAMS),
    "masked": lambda: gdjax.masked(ADAM, dict.fromkeys(PARAMS, False)).init(PARAMS),
    "an average before the rate": lambda: gdjax.chain(AVERAGE, gdjax.scale(-0.1)).init(PARAMS),
    "two rates": lambda: gdjax.chain(ADAM, gdjax.sgd(0.1)),
    "no key": lambda: gdjax.add_noise(0.1, 0.5),
    "a constant schedule": lambda: gdjax.exponential_decay(0.1, 9, 0),
    "transition_begin": lambda: gdjax.linear_schedule(0.1, 0.0, 5, -1),
    "ascent": lambda: gdjax.minimize(lambda p: jnp.sum(p), jnp.ones(2), gdjax.scale(1.0), steps=1),
}


@pytest.mark.parametrize("name", WARNS)
def test_it_is_the_line_of_the_call(name: str):
    call = WARNS[name]
    with pytest.warns(UserWarning) as caught:
        call()
    lines, first = inspect.getsourcelines(call)
    places = {(w.filename, first <= w.lineno < first + len(lines)) for w in caught}
    assert places == {(__file__, True)}, [(w.filename, w.lineno, str(w.message)) for w in caught]


def test_it_is_shown_once_for_each_line():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            gdjax.chain(ADAM, ADAM)
        gdjax.chain(ADAM, ADAM)
    assert len(caught) == 2
    assert np.diff([w.lineno for w in caught]).tolist() == [1]


def test_no_other_module_warns_by_itself():
    found = [p.name for p in Path(gdjax.__file__).parent.rglob("*.py") if re.search(r"warnings\.warn", p.read_text())]
    assert found == [Path(callers.__file__).name]


def called(x: Any, y: Any = 0, *rest: Any, z: Any = 0) -> None: ...


def of_two(path: Any, leaf: Any) -> None: ...


def test_arguments_by_position_up_to_the_first_that_is_left_out():
    assert callers.positional(called) == ["x", "y"] and callers.positional(dict.fromkeys) == ["iterable", "value"]
    assert callers.by_position(called, (), {"y": 2, "x": 1, "z": 3}) == ((1, 2), {"z": 3})
    assert callers.by_position(called, (), {"y": 2}) == ((), {"y": 2})
    assert callers.by_position(called, (1,), {"y": 2}) == ((1, 2), {})


def test_where_a_call_passes_an_argument():
    place = lambda wanted, count, **kwargs: callers.place("f", called, wanted, count, kwargs)
    assert (place("y", 2), place(1, 2), place(-1, 2), place(-2, 2)) == (1, 1, 1, 0)
    assert (place("y", 1, y=5), place(1, 1, y=5), place("z", 2, z=5)) == ("y", "y", "z")
    for wanted, count in (("z", 2), (1, 1), (2, 2), (-3, 2)):
        with pytest.raises(ValueError, match=f"^f: the call has no argument {wanted!r}, which has a batch axis"):
            place(wanted, count)


def test_functions_of_the_tree_and_of_a_leaf():
    assert callers.of_tree("f", "mask", lambda tree: tree + 1, 2) == 3
    assert callers.of_leaf("f", lambda path, leaf: path == "a", "a", 0) is True
    assert callers.of_leaf("f", lambda path, leaf: [], "a", 0) is False
    with pytest.raises(TypeError, match="^f: the pattern <lambda> is called with .path, leaf., but it takes path; wri"):
        callers.of_leaf("f", lambda path: True, "a", 0)
    with pytest.raises(ValueError, match="here 'a' and a number, and raised KeyError: 'b'$"):
        callers.of_leaf("f", lambda path, leaf: {}["b"], "a", 0)
    with pytest.raises(
        TypeError, match="^f: the pattern <lambda> returned an array of shape .2,. for 'a', which is nei"
    ):
        callers.of_leaf("f", lambda path, leaf: jnp.ones(2), "a", 0)


def test_a_schedule_is_called_with_the_count():
    callers.schedule("f", "rate", lambda count: 0.1)
    with pytest.raises(
        TypeError, match="^f: rate: a schedule is called with the count, and <lambda> takes no argument"
    ):
        callers.schedule("f", "rate", lambda: 0.1)
    with pytest.raises(TypeError, match=r"and of_two takes path, leaf; call it: of_two\(\.\.\.\)$"):
        callers.schedule("f", "rate", of_two)
