"""Wrong calls: the error says which argument is wrong and what to write, and what it says is true."""

import inspect
import pickle
import pydoc
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax.core import misuse
from tests.trees import assert_close, random_tree

FACTORIES = {
    name: f
    for name, f in vars(gdjax).items()
    if inspect.isfunction(f) and f.__module__.startswith("gdjax.") and hasattr(f, "__wrapped__")
}


class Wrong:
    """A call, what its error says after "gdjax.", and the call that it asks for."""

    def __init__(self, call: str, message: str, right: str = ""):
        self.call, self.message, self.right = call, message, right


WRONG = [
    Wrong("adam(lr=1e-3)", "adam: unknown argument 'lr': write learning_rate;", "adam(learning_rate=1e-3)"),
    Wrong("adam(1e-3, betas=(0.9, 0.99))", "adam: unknown argument 'betas': write b1=0.9, b2=0.99; its arguments are",
          "adam(1e-3, b1=0.9, b2=0.99)"),
    Wrong("adan(1e-3, betas=[0.98, 0.92, 0.99])", "adan: unknown argument 'betas': write b1=0.98, b2=0.92, b3=0.99;",
          "adan(1e-3, b1=0.98, b2=0.92, b3=0.99)"),
    Wrong("lion(1e-3, betas=0.9)", "lion: unknown argument 'betas': write b1, b2;"),
    Wrong("adam(1e-3, beta1=0.9)", "adam: unknown argument 'beta1': write b1;", "adam(1e-3, b1=0.9)"),
    Wrong("adam(1e-3, beta_2=0.9)", "adam: unknown argument 'beta_2': write b2;", "adam(1e-3, b2=0.9)"),
    Wrong("adamw(1e-3, epsilon=1e-7)", "adamw: unknown argument 'epsilon': write eps;", "adamw(1e-3, eps=1e-7)"),
    Wrong("adamw(1e-3, wd=0.1)", "adamw: unknown argument 'wd': write weight_decay;", "adamw(1e-3, weight_decay=0.1)"),
    Wrong("adafactor(1e-3, weight_decay=0.1)", "adafactor: unknown argument 'weight_decay': write weight_decay_rate;",
          "adafactor(1e-3, weight_decay_rate=0.1)"),
    Wrong("adafactor(1e-3, wd=0.1)", "adafactor: unknown argument 'wd': write weight_decay_rate;"),
    Wrong("adam(1e-3, weight_decay=0.1)", "adam: unknown argument 'weight_decay': write adamw(...), or for torch's L2 "
          "form write chain(add_decayed_weights(...), adam(...)); its arguments are learning_rate, b1,"),
    Wrong("sgd(0.1, wd=0.1)", "sgd: unknown argument 'wd': for torch's L2 form write chain(add_decayed_weights(...), "),
    Wrong("sgd(0.1, dampening=0)", "sgd: unknown argument 'dampening': leave it out", "sgd(0.1)"),
    Wrong("adam(0.1, amsgrad=True)", "adam: unknown argument 'amsgrad': write amsgrad(...)", "amsgrad(0.1)"),
    Wrong("rmsprop(0.1, alpha=0.9)", "rmsprop: unknown argument 'alpha': write decay;", "rmsprop(0.1, decay=0.9)"),
    Wrong("rmsprop(0.1, rho=0.9)", "rmsprop: unknown argument 'rho': write decay;", "rmsprop(0.1, decay=0.9)"),
    Wrong("muon(0.1, momentum=0.9)", "muon: unknown argument 'momentum': write beta;", "muon(0.1, beta=0.9)"),
    Wrong("soap(0.1, adam_b2=0.9)", "soap: unknown argument 'adam_b2': write others;",
          "soap(0.1, others=adamw(0.1, 0.95, 0.9))"),
    Wrong("rprop(0.1, etas=(0.5, 1.2))", "rprop: unknown argument 'etas': write eta_minus=0.5, eta_plus=1.2;",
          "rprop(0.1, eta_minus=0.5, eta_plus=1.2)"),
    Wrong("rprop(0.1, step_sizes=(1e-6, 50))", "rprop: unknown argument 'step_sizes': write min_step_size=1e-06, max",
          "rprop(0.1, min_step_size=1e-6, max_step_size=50)"),
    # Names that no factory calls so: the nearest of those not given yet, or the list alone.
    Wrong("sgd(0.1, momentun=0.9)", "sgd: unknown argument 'momentun': perhaps momentum; its arguments are",
          "sgd(0.1, momentum=0.9)"),
    Wrong("sgd(0.1, learningrate=0.9)", "sgd: unknown argument 'learningrate'; its arguments are learning_rate,"),
    Wrong("cosine_decay_schedule(0.1, steps=9)", "cosine_decay_schedule: unknown argument 'steps': perhaps decay_steps",
          "cosine_decay_schedule(0.1, decay_steps=9)"),
    Wrong("sgd(0.1, alpha=0.9)", "sgd: unknown argument 'alpha'; its arguments are learning_rate, momentum,"),
    Wrong("sgd(0.1, rho=0.9)", "sgd: unknown argument 'rho'; its arguments are"),
    Wrong("scale_by_adam(lr=0.9)", "scale_by_adam: unknown argument 'lr'; its arguments are b1, b2,"),
    Wrong("identity(lr=0.9)", "identity: unknown argument 'lr'; it takes none"),
    # Given twice; parameters where torch.optim has them.
    Wrong("sgd(0.1, lr=0.2)", "sgd: unknown argument 'lr': that is learning_rate, which is given too; its arguments"),
    Wrong("sgd({'w': 1.0}, lr=0.2)", "sgd: unknown argument 'lr': that is learning_rate, which is given too; "
          "parameters go to init(params); its arguments"),
    Wrong("adam([1.0], 0.2)", "adam: learning_rate must be a number, a scalar array or a schedule, got a list; "
          "parameters go to init(params)"),
    Wrong("sgd(iter([1.0]), lr=0.2)", "sgd: unknown argument 'lr': that is learning_rate, which is given too; param"),
    # All that is unknown, and before what is missing.
    Wrong("adam(lr=1e-3, betas=(0.9, 0.99))", "adam: unknown argument 'lr': write learning_rate; unknown argument "
          "'betas': write b1=0.9, b2=0.99; its arguments are", "adam(learning_rate=1e-3, b1=0.9, b2=0.99)"),
    Wrong("adam(b1=0.9)", "adam: missing a required argument: 'learning_rate'; its arguments are"),
    Wrong("clip(1.0, 2.0)", "clip: too many positional arguments; its arguments are max_delta"),
    Wrong("sgd(0.1, learning_rate=0.2)", "sgd: multiple values for argument 'learning_rate'; its arguments are"),
    # Through inject_hyperparams.
    Wrong("inject_hyperparams(adam)(lr=0.1)", "adam: unknown argument 'lr': write learning_rate; its arguments are",
          "inject_hyperparams(adam)(learning_rate=0.1)"),
    Wrong("inject_hyperparams(adam(0.1))", "inject_hyperparams: inner_factory must be a function, got adam(.*); pass "
          "the factory, not what it returned: inject_hyperparams(adam)(1e-3)", "inject_hyperparams(adam)(1e-3)"),
    Wrong("inject_hyperparams(3)", "inject_hyperparams: inner_factory must be a function, got 3$"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", [pytest.param(w, id=w.call) for w in WRONG])
def test_the_message(wrong: Wrong):
    message = re.escape(wrong.message).replace(re.escape(".*"), ".*").replace(re.escape("$"), "$")
    with pytest.raises(TypeError, match=f"^gdjax.{message}"):
        eval(wrong.call, dict(vars(gdjax)))
    if wrong.right:
        eval(wrong.right, dict(vars(gdjax)))


def written(f: Callable[..., Any], name: str) -> list[str]:
    """The names that the error of an unknown argument says to write."""
    with pytest.raises(TypeError) as e:
        f(**{name: (1, 2)})
    found = re.search(rf"unknown argument '{name}': write ([\w=, ]+);", str(e.value))
    return [x.partition("=")[0] for x in found.group(1).split(", ")] if found else []


def test_a_factory_has_the_names_that_it_is_told_to_have():
    told = set()
    for factory, f in FACTORIES.items():
        names = inspect.signature(f).parameters
        for key in misuse._NAMES:
            name = key.rpartition(".")[2]
            if name not in names and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
                ours = written(f, name)
                told |= {name} if ours else set()
                assert set(ours) <= set(names), (factory, name)
    assert told == {key.rpartition(".")[2] for key in misuse._NAMES}, "rows that no factory uses"


@pytest.mark.parametrize("key", [key for key in {**misuse._NAMES, **misuse._ADVICE} if "." in key])
def test_advice_is_for_a_factory_without_the_argument(key: str):
    factory, name = key.split(".")
    assert name not in inspect.signature(FACTORIES[factory]).parameters


@pytest.mark.parametrize("name", misuse._UNDECAYED)
def test_decay_in_the_chain_is_decay_in_the_gradient(name: str):
    params, g = random_tree(0), random_tree(1)
    tx = FACTORIES[name](0.1)
    decayed = jax.tree.map(lambda g, p: g + 0.1 * p, g, params)
    chained = gdjax.chain(gdjax.add_decayed_weights(0.1), tx)
    u, _ = chained.update(g, chained.init(params), params)
    assert_close(u, tx.update(decayed, tx.init(params), params)[0])
    if name in misuse._DECOUPLED:
        assert "weight_decay" in inspect.signature(FACTORIES[misuse._DECOUPLED[name]]).parameters


def test_a_factory_of_ones_own():
    @gdjax.transform
    def sgd(learning_rate: float, momentum: float = 0.0) -> Any:
        return gdjax.sgd(learning_rate, momentum)

    with pytest.raises(TypeError, match=r"^sgd: unknown argument 'lr': write learning_rate; its arguments are lea"):
        sgd(lr=0.1)
    with pytest.raises(TypeError, match=r"^sgd: unknown argument 'dampening'; its arguments are"):  # its own may be
        sgd(0.1, dampening=0)
    with pytest.raises(TypeError, match=r"^make: unknown argument 'lr': write learning_rate; its arguments"):

        def make(learning_rate: float) -> Any:
            return gdjax.sgd(learning_rate)

        gdjax.inject_hyperparams(make)(lr=0.1)


def test_any_keyword_goes_where_the_signature_takes_any():
    @gdjax.transform
    def own(learning_rate: float, **rest: float) -> Any:
        return gdjax.sgd(learning_rate)

    with pytest.raises(TypeError, match=r"^own: missing a required argument: 'learning_rate'; its arguments are"):
        own(lr=0.1)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "chain": lambda tx: gdjax.chain(tx),
    "named_chain": lambda tx: gdjax.named_chain(("a", tx)),
    "masked": lambda tx: gdjax.masked(tx, True),
    "partition": lambda tx: gdjax.partition({"a": tx}, "a"),
    "apply_if_finite": lambda tx: gdjax.apply_if_finite(tx, 3),
    "MultiSteps": lambda tx: gdjax.MultiSteps(tx, 3),
    "lookahead": lambda tx: gdjax.lookahead(tx, 5, 0.5),
    "flatten": gdjax.flatten,
    "mechanize": gdjax.mechanize,
    "sam": lambda tx: gdjax.sam(tx, gdjax.sgd(0.1)),
    "schedule_free": lambda tx: gdjax.schedule_free(tx, 0.1),
    "galore": lambda tx: gdjax.galore(0.1, base_optimizer=tx),
    "to_optax": gdjax.to_optax,
    "minimize": lambda tx: gdjax.minimize(lambda p: p, 1.0, tx, steps=1),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_no_transform(wrapper: str):
    def rejects(x: Any, message: str) -> None:
        with pytest.raises(TypeError, match=rf"^gdjax.\w+: argument \S+ is .*{message}"):
            WRAPPERS[wrapper](x)

    rejects(gdjax.adam, r"<function adam .*>, not a transform; if it makes one, call it: adam\(\.\.\.\)$")
    rejects(
        gdjax.MultiSteps, r"<class .*MultiSteps'>, not a transform; if it makes one, call it: MultiSteps\(\.\.\.\)$"
    )
    rejects(gdjax.inject_hyperparams(gdjax.adam), r", not a transform; if it makes one, call it: inject_hyperparams\(")
    rejects([gdjax.sgd(0.1)], r"\[sgd\(.*\)\], a list; of its transforms make one: chain\(\*transforms\)$")
    rejects((), r"\(\), a tuple; of its transforms make one: chain\(\*transforms\)$")
    rejects(0.1, "0.1, which has no init and update$")


def test_a_class_of_static_functions_is_a_transform():
    class Tenth:
        @staticmethod
        def init(params: Any) -> Any:
            return gdjax.EmptyState()

        @staticmethod
        def update(updates: Any, state: Any, params: Any = None) -> Any:
            return 0.1 * updates, state

    for tx in (gdjax.chain(Tenth), gdjax.apply_if_finite(Tenth, 3)):
        assert tx.update(jnp.ones(()), tx.init(jnp.ones(())))[0] == jnp.float32(0.1)


def test_a_factory_that_was_not_called():
    @gdjax.leafwise()
    def own(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g, s

    for f, label in ((gdjax.adam, "gdjax.adam"), (gdjax.scale_by_adam, "gdjax.scale_by_adam"),
                     (gdjax.params_ema, "gdjax.params_ema"), (gdjax.chain, "gdjax.chain"), (own, "own")):  # fmt: skip
        told = rf"^{label} is a function that makes a transform: call it: {re.escape(label)}\(\.\.\.\)\."
        with pytest.raises(AttributeError, match=rf"{told}init\(params\)$"):
            f.init({"w": 1.0})  # type: ignore[attr-defined]
        with pytest.raises(AttributeError, match=rf"{told}update\(updates, state, params\)$"):
            f.update({"w": 1.0}, (), {"w": 1.0})  # type: ignore[attr-defined]
        # It is a function still, and no transform.
        assert inspect.isfunction(f) and not misuse.is_transform(f)
    assert pickle.loads(pickle.dumps(gdjax.adam)) is gdjax.adam
    assert list(inspect.signature(gdjax.adam).parameters)[:2] == ["learning_rate", "b1"]
    shown, written = pydoc.render_doc(gdjax.adam, renderer=pydoc.plaintext), pydoc.getdoc(gdjax.adam)
    assert shown.count("init(") == written.count("init(")
    with pytest.raises(TypeError, match=r"not a transform; if it makes one, call it: adam\(\.\.\.\)"):
        gdjax.chain(gdjax.adam)
    with pytest.raises(TypeError, match=r"^gdjax.get_hyperparams: argument tx is .* call it: adam\(\.\.\.\)"):
        gdjax.get_hyperparams(gdjax.adam, ())  # type: ignore[arg-type]


def accumulated(**arguments: Any) -> Any:
    return gdjax.accumulate(gdjax.sgd(0.1), 4, **arguments)


@pytest.mark.parametrize("name", ["lst", "lasst", "lsat", "lost"])
def test_an_extra_argument_that_is_misspelt(name: str):
    p = {"w": jnp.ones(2)}
    for tx in (accumulated(), gdjax.chain(gdjax.clip(1.0), accumulated()), gdjax.masked(accumulated(), {"w": True})):
        message = rf"^gdjax\.\w+: unknown argument '{name}' of update: perhaps last"
        with pytest.raises(TypeError, match=message):
            tx.update(p, tx.init(p), p, **{name: True})
        with pytest.raises(TypeError, match=message):
            jax.jit(lambda p, tx=tx: tx.update(p, tx.init(p), p, **{name: True}))(p)


MISSPELT: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a weight": (lambda: accumulated(weight="tokens"), {"tokenz": 3.0}, "tokens"),
    "of a rule": (lambda: gdjax.polyak_sgd(1.0), {"values": 1.0}, "value"),
    "of another rule": (lambda: gdjax.momo(1.0), {"vale": 1.0}, "value"),
    "of a search": (lambda: gdjax.lbfgs(), {"value": 1.0, "grad": 0, "valuefn": jnp.sum}, "value_fn"),
    "with one window of one": (lambda: gdjax.accumulate(gdjax.sgd(0.1), 1, weight="rows"), {"row": 3.0}, "rows"),
    "inside what is injected": (lambda: gdjax.inject_hyperparams(gdjax.polyak_sgd)(1.0), {"vaule": 1.0}, "value"),
    "of the rule of a wrapper": (lambda: gdjax.skip_spikes(gdjax.sgd(0.1)), {"valu": 1.0}, "value"),
}


@pytest.mark.parametrize("name", MISSPELT)
def test_whatever_asks_for_it(name: str):
    make, given, meant = MISSPELT[name]
    tx, p = make(), {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match=f"unknown argument '{[*given][-1]}' of update: perhaps {meant}$"):
        tx.update(p, tx.init(p), p, **given)


def heard(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
    return jax.tree.map(lambda u: u * extra_args["lost"], updates), state


LET_IN: dict[str, tuple[Any, dict[str, Any]]] = {
    "unlike any": (accumulated, {"batch": 3, "list_of_names": 1}),
    "two edits away": (accumulated, {"lots": 1}),
    "like the step of a condition": (
        lambda: gdjax.conditionally_mask(gdjax.sgd(0.1), lambda step, **given: step < given["steps"], True),
        {"steps": 1},
    ),
    "beside the right one": (accumulated, {"last": True, "lasts": 1}),
    "asked for beside": (lambda: gdjax.chain(accumulated(), accumulated(weight="lost")), {"lost": 2.0}),
    "of somebody's function": (
        lambda: gdjax.chain(accumulated(), gdjax.GradientTransformation(gdjax.init_empty_state, heard)),
        {"lost": 2.0},
    ),
    "of a function that is given": (
        lambda: gdjax.chain(accumulated(), gdjax.scale_by_backtracking_linesearch(5)),
        {"value": 1.0, "grad": {"w": jnp.ones(2)}, "value_fn": lambda p, lost: jnp.sum(p["w"] * lost), "lost": 1.0},
    ),
}


@pytest.mark.parametrize("name", LET_IN)
def test_other_extra_arguments_are_let_in(name: str):
    make, given = LET_IN[name]
    tx, p = make(), {"w": jnp.ones(2)}
    tx.update(p, tx.init(p), p, **given)
