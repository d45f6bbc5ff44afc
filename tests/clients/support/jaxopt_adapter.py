"""JAXopt's classes and functions over gdjax, put into the module `jaxopt`: a plugin for runs of JAXopt's own tests.

What gdjax has no counterpart of stays JAXopt's. Each call of an adapter is counted, so that a test that reached none is
told apart ("gdjax_calls" among the properties of a result).
"""

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

import gdjax

with warnings.catch_warnings(action="ignore"):
    import jaxopt
    import jaxopt.perturbations
    import jaxopt.tree_util

calls = 0


def counted(f: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(f)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        global calls
        calls += 1
        return f(*args, **kwargs)

    return wrapper


class State(NamedTuple):
    """What JAXopt calls the state of a solver."""

    iter_num: Any
    error: Any
    value: Any
    aux: Any
    status: Any = None
    inner: Any = None  # of gdjax's optimizer
    point: Any = None  # the parameters of that, where an average is shown


class Solver:
    """A solver of JAXopt, by `solve`; `init_state` and `update` are steps of the same optimizer.

    A subclass says which optimizer; with `hyper` the argument of that name, first or by keyword, goes to it.
    """

    hyper = ""
    defaults: dict[str, Any] = {}

    def __init__(self, fun: Any = None, *args: Any, **options: Any) -> None:
        global calls
        calls += 1
        named = dict(zip(self.defaults, args, strict=False)) | options
        fun = named.pop("residual_fun", fun)
        common = {"maxiter": 500, "tol": 1e-3, "has_aux": False, "value_and_grad": False, "stepsize": 0.0}
        self.__dict__.update(common | self.defaults | named)
        self.fun, self._jitted = fun, jax.jit(self._step)

    def loss(self, params: Any, hyper: Any, args: Any, kwargs: Any) -> Any:
        """The value, and aux."""
        out = self.fun(params, *args, **kwargs)
        out = out[0] if self.value_and_grad is True else out
        value, aux = out if self.has_aux else (out, None)
        return value, aux

    def optimizer(self, hyper: Any) -> Any:
        raise NotImplementedError

    def functions(self) -> dict[str, Any]:
        return {}

    def _split(self, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        if not self.hyper:
            return None, args, kwargs
        if self.hyper in kwargs:
            kwargs = dict(kwargs)
            return kwargs.pop(self.hyper), args, kwargs
        return (args[0], args[1:], kwargs) if args else (None, args, kwargs)

    def run(self, init_params: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(init_params, jaxopt.OptStep):
            init_params = init_params.params
        split = self._split(args, kwargs)
        found = gdjax.solve(
            self.loss, _floating(init_params), lambda hyper, *_: self.optimizer(hyper), *split,
            steps=self.maxiter, tol=self.tol, has_aux=True, extra_fns=self.functions(),
        )  # fmt: skip
        return jaxopt.OptStep(found.params, State(found.steps, found.error, found.value, found.aux, found.status))

    def init_state(self, init_params: Any, *args: Any, **kwargs: Any) -> State:
        hyper, args, kwargs = self._split(args, kwargs)
        start = _floating(init_params)
        zero, far = jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf)
        return State(zero, far, far, None, None, self.optimizer(hyper).init(start), start)

    def update(self, params: Any, state: State, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(params, state, *self._split(args, kwargs))

    def _step(self, params: Any, state: State, hyper: Any, args: Any, kwargs: Any) -> Any:
        tx, point = self.optimizer(hyper), state.point
        loss = lambda p: self.loss(p, hyper, args, kwargs)
        (value, aux), g = jax.value_and_grad(loss, has_aux=True)(point)
        g = gdjax.tree.conj(g)
        given = {"value": value, "grad": g, "value_fn": lambda p: loss(p)[0]}
        given |= {name: lambda p, f=f: f(p, hyper, args, kwargs) for name, f in self.functions().items()}
        u, inner = tx.update(g, state.inner, point, **given)
        point = gdjax.apply_updates(point, u)
        new = gdjax.eval_params(tx, inner, point)
        error = gdjax.global_norm(self._gap(new, jax.grad(lambda p: loss(p)[0])(new), hyper))
        return jaxopt.OptStep(new, State(state.iter_num + 1, error, value, aux, None, inner, point))

    def _gap(self, params: Any, g: Any, hyper: Any) -> Any:
        return g

    def run_iterator(self, init_params: Any, iterator: Any, *args: Any, **kwargs: Any) -> Any:
        params, state = init_params, self.init_state(init_params)
        for _, data in zip(range(self.maxiter), iterator, strict=False):
            params, state = self.update(params, state, *args, **kwargs, data=data)
        return jaxopt.OptStep(params, state)

    def optimality_fun(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        hyper, args, kwargs = self._split(args, kwargs)
        g = jax.grad(lambda p: self.loss(p, hyper, args, kwargs)[0])(params)
        return self._gap(params, g, hyper)

    def l2_optimality_error(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        return gdjax.global_norm(self.optimality_fun(params, *args, **kwargs))


def _floating(params: Any) -> Any:
    return jax.tree.map(
        lambda x: x * 1.0 if jnp.issubdtype(x.dtype, jnp.integer) else x, jax.tree.map(jnp.asarray, params)
    )


def _searches(stepsize: Any) -> bool:
    return not callable(stepsize) and stepsize <= 0


class ProximalGradient(Solver):
    hyper = "hyperparams_prox"
    defaults = {"prox": None, "stepsize": 0.0, "maxiter": 500, "maxls": 15, "tol": 1e-3, "acceleration": True}

    def _map(self, hyper: Any) -> Any:
        prox = self.prox or jaxopt.prox.prox_none
        return lambda tree, step=1.0: prox(tree, hyper, step)

    def optimizer(self, hyper: Any) -> Any:
        rate = None if _searches(self.stepsize) else self.stepsize
        return gdjax.proximal_gradient(rate, self._map(hyper), accelerate=self.acceleration)

    def _gap(self, params: Any, g: Any, hyper: Any) -> Any:
        return gdjax.tree.sub(params, self._map(hyper)(gdjax.tree.sub(params, g)))


class BlockCoordinateDescent(ProximalGradient):
    defaults = {"block_prox": None, "maxiter": 500, "tol": 1e-3, "acceleration": True}

    def _map(self, hyper: Any) -> Any:
        """Of each block, a row or a number."""
        rows = lambda x, step: jax.vmap(lambda row: self.block_prox(row, hyper, step))(x)
        return lambda x, step=1.0: rows(x, step)


class ProjectedGradient(ProximalGradient):
    hyper = "hyperparams_proj"
    defaults = {"projection": None, "stepsize": 0.0, "maxiter": 500, "maxls": 15, "tol": 1e-3, "acceleration": True}

    def _map(self, hyper: Any) -> Any:
        return lambda tree, step=1.0: self.projection(tree, hyper)


class GradientDescent(ProximalGradient):
    hyper = ""
    defaults = {"stepsize": 0.0, "maxiter": 500, "maxls": 15, "tol": 1e-3, "acceleration": True, "prox": None}


class Quasi(Solver):
    make: Any = None
    maxls = 20

    def search(self) -> Any:
        name = self.linesearch if isinstance(self.linesearch, str) else "backtracking"
        if name == "backtracking":
            return gdjax.scale_by_backtracking_linesearch(max(self.maxls, 30), store_grad=True)
        return gdjax.scale_by_zoom_linesearch(self.maxls, initial_guess_strategy="one")

    def settings(self, hyper: Any) -> dict[str, Any]:
        return {}

    def optimizer(self, hyper: Any) -> Any:
        if not _searches(self.stepsize):
            return type(self).make(self.stepsize, linesearch=None, **self.settings(hyper))
        search = {} if self.linesearch == "zoom" else {"linesearch": self.search()}
        return type(self).make(**search, **self.settings(hyper))


class BFGS(Quasi):
    make = staticmethod(gdjax.bfgs)
    defaults = {"linesearch": "zoom"}


class NonlinearCG(Quasi):
    """With the search of gdjax's, whichever is named: some methods need the strong Wolfe conditions."""

    defaults = {"method": "polak-ribiere", "maxiter": 100}

    def optimizer(self, hyper: Any) -> Any:
        return gdjax.nonlinear_cg(method=self.method)


class Remembering(State):
    """The state after a run of `solve`, which keeps none of the optimizer: the same steps make it again when asked."""

    replay: Callable[[], Any]
    s_history = property(lambda self: self.replay().diff_params_memory)
    y_history = property(lambda self: self.replay().diff_updates_memory)


class LBFGS(Quasi):
    make = staticmethod(gdjax.lbfgs)
    defaults = {"linesearch": "zoom", "history_size": 10, "use_gamma": True}

    def run(self, init_params: Any = None, *args: Any, **kwargs: Any) -> Any:
        params, state = super().run(init_params, *args, **kwargs)
        state = Remembering(*state)

        def replay() -> Any:
            p, s = init_params, self.init_state(init_params, *args, **kwargs)
            for _ in range(int(state.iter_num)):
                p, s = self.update(p, s, *args, **kwargs)
            states = jax.tree.leaves(s.inner, is_leaf=lambda x: isinstance(x, gdjax.ScaleByLBFGSState))
            return next(x for x in states if isinstance(x, gdjax.ScaleByLBFGSState))

        state.replay = replay
        return jaxopt.OptStep(params, state)

    def settings(self, hyper: Any) -> dict[str, Any]:
        return {"memory_size": self.history_size, "scale_init_precond": self.use_gamma}


class LBFGSB(LBFGS):
    hyper = "bounds"

    def settings(self, hyper: Any) -> dict[str, Any]:
        return super().settings(hyper) | {"bounds": hyper}

    def search(self) -> Any:
        name = self.linesearch if isinstance(self.linesearch, str) else "backtracking"
        if name == "backtracking":
            return gdjax.scale_by_backtracking_linesearch(30, store_grad=True, max_learning_rate=1.0)
        return gdjax.scale_by_zoom_linesearch(self.maxls, 1.0, initial_guess_strategy="one")

    def _gap(self, params: Any, g: Any, hyper: Any) -> Any:
        return gdjax.tree.sub(params, gdjax.projections.projection_box(gdjax.tree.sub(params, g), *hyper))


class LeastSquares(Solver):
    """To the tolerance, as JAXopt."""

    defaults = {"maxiter": 30, "tol": 1e-5, "damping_parameter": 1e-6, "geodesic": False}

    def residuals(self, params: Any, hyper: Any, args: Any, kwargs: Any) -> Any:
        out = self.fun(params, *args, **kwargs)
        return jnp.atleast_1d(out[0] if self.has_aux else out)

    def loss(self, params: Any, hyper: Any, args: Any, kwargs: Any) -> Any:
        out = self.fun(params, *args, **kwargs)
        return jnp.sum(self.residuals(params, hyper, args, kwargs) ** 2) / 2, out[1] if self.has_aux else None

    def functions(self) -> dict[str, Any]:
        return {"residual_fn": self.residuals}

    def optimizer(self, hyper: Any) -> Any:
        return gdjax.gauss_newton(self.damping_parameter, geodesic=self.geodesic, decrease_tol=0.0)


class GaussNewton(LeastSquares):
    """Steps without a trial. JAXopt's tolerance is of the length of a step, which is longer than the gradient."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        new = copy.copy(self)
        new.tol = self.tol / 100
        return super(GaussNewton, new).run(*args, **kwargs)

    def optimizer(self, hyper: Any) -> Any:
        return gdjax.gauss_newton(1e-12, max_tries=0)


class MirrorDescent(Solver):
    """With the entropy, whichever map is named."""

    hyper = "hyperparams_proj"
    defaults = {"projection_grad": None, "stepsize": None, "maxiter": 500, "tol": 1e-2}
    make_projection_grad = jaxopt.MirrorDescent.make_projection_grad

    def optimizer(self, hyper: Any) -> Any:
        return gdjax.mirror_descent(self.stepsize)


class PolyakSGD(Solver):
    defaults = {"max_stepsize": 1.0, "momentum": 0.0, "fun_min": 0.0, "variant": "SPS_max"}

    def optimizer(self, hyper: Any) -> Any:
        variant = "sps+" if self.variant == "SPS+" else "sps"
        tx = gdjax.polyak_sgd(self.max_stepsize, f_min=self.fun_min, variant=variant)
        return gdjax.chain(tx, gdjax.trace(self.momentum)) if self.momentum else tx


class OptaxSolver(Solver):
    defaults = {"opt": None}

    def optimizer(self, hyper: Any) -> Any:
        return self.opt


class AndersonAcceleration(Solver):
    """A loop around the steps, as the map need be no gradient, and its derivative by `jax.lax.custom_root`."""

    defaults = {"history_size": 5, "mixing_frequency": 1, "beta": 1.0, "maxiter": 100, "tol": 1e-5, "ridge": 1e-5}

    def __init__(self, fixed_point_fun: Any, *args: Any, **options: Any) -> None:
        super().__init__(fixed_point_fun, *args, **options)

    def run(self, init_params: Any = None, *args: Any, **kwargs: Any) -> Any:
        tx = gdjax.anderson(gdjax.sgd(1.0), self.history_size, ridge=self.ridge)
        start, back = ravel_pytree(init_params)

        def gap(v: Any) -> Any:
            out = self.fun(back(v), *args, **kwargs)
            return v - ravel_pytree(out[0] if self.has_aux else out)[0]

        def step(carry: Any) -> Any:
            v, state, count, g = carry
            u, state = tx.update(g, state, v)
            v = gdjax.apply_updates(v, u)
            return v, state, count + 1, gap(v)

        def fixed(_: Any, v: Any) -> Any:
            more = lambda carry: (jnp.linalg.norm(carry[3]) > self.tol) & (carry[2] < self.maxiter)
            v, _, count, g = jax.lax.while_loop(more, step, (v, tx.init(v), jnp.zeros((), jnp.int32), gap(v)))
            return v, (count * 1.0, jnp.linalg.norm(g))  # aux has to be floating

        solved = lambda linear, y: jnp.linalg.solve(jax.jacobian(linear)(y), y)
        v, (count, error) = jax.lax.custom_root(gap, start, fixed, solved, has_aux=True)
        return jaxopt.OptStep(back(v), State(count.astype(int), error, None, None))


def anderson_wrapper(solver: Solver, history_size: int = 5, **_: Any) -> Solver:
    """JAXopt's begins its solver anew at each mixture. Here each step is one, so that momentum is that of one step."""

    def anew(tx: Any) -> Any:
        update = lambda g, state, params=None, **more: tx.update(g, tx.init(params), params, **more)
        return gdjax.GradientTransformationExtraArgs(tx.init, update)

    new, inner = copy.copy(solver), solver.optimizer
    fresh = anew if isinstance(solver, OptaxSolver) else lambda tx: tx  # the others' momentum suits a mixture
    new.optimizer = lambda hyper: gdjax.anderson(fresh(inner(hyper)), history_size)
    new._jitted = jax.jit(new._step)
    return new


TUPLES = "box hyperplane halfspace affine_set polyhedron box_section".split()


def projections() -> dict[str, Any]:
    p = gdjax.projections
    plain = "simplex l1_sphere l1_ball l2_sphere l2_ball linf_ball hypercube".split()
    found = {f"projection_{name}": getattr(p, f"projection_{name}") for name in plain}
    found |= {f"projection_{name}": _unpacked(getattr(p, f"projection_{name}")) for name in TUPLES}
    found["projection_transport"] = lambda S, marginals, *_, **__: p.projection_transport(S, marginals)
    found["projection_birkhoff"] = lambda S, *_, **__: p.projection_birkhoff(S)
    return found | {"projection_non_negative": lambda x, hyper=None: p.projection_non_negative(x)}


def _unpacked(f: Any) -> Any:
    return lambda x, hyperparams, *_, **__: f(x, *hyperparams)


def proxes() -> dict[str, Any]:
    p = gdjax.prox

    def of(make: Any) -> Any:
        return lambda x, hyper=None, scaling=1.0: make(1.0 if hyper is None else hyper)(x, scaling)

    def group(x: Any, hyper: Any = None, scaling: Any = 1.0) -> Any:
        v, back = ravel_pytree(x)
        return back(p.group_lasso(1.0 if hyper is None else hyper)(v, scaling))

    def elastic(x: Any, hyper: Any = None, scaling: Any = 1.0) -> Any:
        return p.elastic_net(*((1.0, 1.0) if hyper is None else hyper))(x, scaling)

    return {
        "prox_none": lambda x, hyper=None, scaling=1.0: p.none()(x, scaling),
        "prox_lasso": of(p.l1),
        "prox_non_negative_lasso": of(p.nonnegative_l1),
        "prox_ridge": of(p.ridge),
        "prox_non_negative_ridge": of(p.nonnegative_ridge),
        "prox_elastic_net": elastic,
        "prox_group_lasso": group,
        "make_prox_from_projection": lambda projection: (
            lambda x, hyper=None, scaling=1.0: p.from_projection(projection, *([] if hyper is None else [hyper]))(x)
        ),
    }


def losses() -> dict[str, Any]:
    integer = gdjax.softmax_cross_entropy_with_integer_labels
    signed = lambda label: 2 * jnp.asarray(label) - 1
    found = {
        "huber_loss": lambda target, pred, delta=1.0: gdjax.huber_loss(jnp.asarray(pred, float), target, delta=delta),
        "binary_logistic_loss": lambda label, logit: gdjax.sigmoid_binary_cross_entropy(logit, label),
        "binary_sparsemax_loss": lambda label, logit: gdjax.losses.sparsemax_loss(logit, label),
        "binary_hinge_loss": lambda label, score: gdjax.hinge_loss(score, signed(label)),
        "binary_perceptron_loss": lambda label, score: gdjax.losses.perceptron_loss(score, signed(label)),
        "multiclass_logistic_loss": lambda label, logits: integer(jnp.asarray(logits, float), jnp.asarray(label)),
        "make_fenchel_young_loss": lambda f: (
            lambda y, scores, *args, **kwargs: gdjax.losses.make_fenchel_young_loss(f)(scores, y, *args, **kwargs)
        ),
    }
    for name in ("sparsemax", "hinge", "perceptron"):
        ours = getattr(gdjax.losses, f"multiclass_{name}_loss")
        found[f"multiclass_{name}_loss"] = lambda label, scores, f=ours: f(scores, label)
    return found


def perturbed() -> dict[str, Any]:
    make = gdjax.perturbations.make_perturbed_fun

    def of(fun: Any, num_samples: int = 1000, sigma: Any = 0.1, noise: Any = None, control_variate: bool = True) -> Any:
        smooth = make(fun, num_samples, sigma, noise or gdjax.perturbations.Gumbel(), control_variate)
        return lambda inputs, rng: smooth(rng, inputs)

    def of_argmax(argmax_fun: Any, *args: Any, **kwargs: Any) -> Any:
        return of(argmax_fun, *args, **kwargs)

    def of_max(argmax_fun: Any, *args: Any, **kwargs: Any) -> Any:
        """The derivative of a maximum is where it is attained."""
        value, at = of(lambda x: jnp.sum(argmax_fun(x) * x), *args, **kwargs), of(argmax_fun, *args, **kwargs)
        fixed = jax.lax.stop_gradient
        return lambda x, rng: fixed(value(x, rng)) + jnp.sum(fixed(at(x, rng)) * (x - fixed(x)))

    return {
        "Normal": gdjax.perturbations.Normal,
        "Gumbel": gdjax.perturbations.Gumbel,
        "make_perturbed_fun": of,
        "make_perturbed_argmax": of_argmax,
        "make_perturbed_max": of_max,
    }


def trees() -> dict[str, Any]:
    t = gdjax.tree
    found: dict[str, Any] = {f"tree_{n}": getattr(t, n) for n in "add sub mul div vdot sum conj real".split()}
    return found | {
        "tree_where": lambda *trees: t.where(*jaxopt.tree_util.broadcast_pytrees(*trees)),
        "tree_zeros_like": t.zeros_like,
        "tree_ones_like": t.ones_like,
        "tree_scalar_mul": t.scale,
        "tree_add_scalar_mul": t.add_scale,
        "tree_negative": lambda x: t.scale(-1, x),
        "tree_l2_norm": lambda x, squared=False: t.norm(x, squared=squared),
        "tree_inf_norm": lambda x: t.norm(x, ord="inf"),
        "tree_vdot_real": lambda x, y: jnp.real(t.vdot(x, y)),
    }


def install() -> None:
    solvers = (ProximalGradient, BlockCoordinateDescent, ProjectedGradient, GradientDescent, BFGS, LBFGS, LBFGSB)
    more = (NonlinearCG, MirrorDescent, AndersonAcceleration, GaussNewton, PolyakSGD, OptaxSolver)
    for solver in (*solvers, *more):
        setattr(jaxopt, solver.__name__, solver)
    jaxopt.LevenbergMarquardt, jaxopt.AndersonWrapper = LeastSquares, counted(anderson_wrapper)
    modules = {"projection": projections(), "prox": proxes(), "loss": losses()}
    for module, found in (modules | {"perturbations": perturbed(), "tree_util": trees()}).items():
        for name, f in found.items():
            setattr(getattr(jaxopt, module), name, counted(f))


def pytest_configure(config: pytest.Config) -> None:
    install()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    before = calls
    try:
        return (yield)
    finally:
        item.user_properties.append(("gdjax_calls", calls - before))
