"""The plots: what is drawn is what was computed, and without matplotlib the error says what to install."""

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import plots
from gdjax.plots import look
from gdjax.plots.landscape import trajectory
from tests.support import relaxed

LINE = gdjax.linear_schedule(1.0, 0.0, 10)


@pytest.fixture
def plt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.close("all")  # what other tests have left
    yield pyplot
    for ax in (ax for k in pyplot.get_fignums() for ax in pyplot.figure(k).axes):
        ax.figure.canvas.draw()  # nothing that fails only when drawn
    pyplot.close("all")


def bowl(p: Any) -> jax.Array:
    return jnp.sum(jnp.array([1.0, 4.0]) * p.ravel() ** 2)


def result(**changes: Any) -> gdjax.SweepResult:
    arguments = {"grid": {"learning_rate": [0.1, 0.01, 1e20], "momentum": [0.0, 0.5]}, "steps": 10, **changes}
    return gdjax.sweep(bowl, jnp.ones(2), gdjax.sgd, **arguments)


def by_size(**changes: Any) -> gdjax.SweepBySize:
    grid = {"learning_rate": [0.2, 0.05, 0.1, 1e20]}
    make = lambda size: ((lambda p: size * bowl(p)), jnp.ones(2))
    return gdjax.sweep(make, None, gdjax.sgd, grid, steps=10, sizes=(1, 2), **changes)


def moved() -> gdjax.TransferCheck:
    make = lambda n, seed: ((lambda p: jnp.sum(p["w"] ** 2)), {"w": jnp.ones((n, n)), "still": jnp.ones(0)})
    return gdjax.check_transfer(make, gdjax.adam(0.1), widths=(2, 8), steps=(1, 2), seeds=2)


def factors_of_a_model() -> gdjax.Table:
    model = lambda n: {"embed": jnp.ones((9, n)), "mlp": jnp.ones((n, n)), "head": jnp.ones((n, 9))}
    return gdjax.transfer_table(gdjax.adamw(0.1), model(16), model(4))


CALLS = {
    "plot_schedule": lambda ax=None: plots.plot_schedule(LINE, 5, ax=ax),
    "plot_losses": lambda ax=None: plots.plot_losses({"loss": np.ones(3)}, ax=ax),
    "plot_metrics": lambda ax=None: plots.plot_metrics({"grad_norm": np.ones(3), "update_norm": np.ones(3)}, ax=ax),
    "plot_movements": lambda ax=None: plots.plot_movements(moved(), ax=ax),
    "plot_plan": lambda ax=None: plots.plot_plan(
        {"adam": gdjax.plan(gdjax.adam(0.1), jnp.ones(3), {"data": 2})}, ax=ax
    ),
    "plot_state_bytes": lambda ax=None: plots.plot_state_bytes({"adam": gdjax.adam(0.1)}, jnp.ones(3), ax=ax),
    "plot_trajectory": lambda ax=None: plots.plot_trajectory(gdjax.sgd(0.1), bowl, (1, 1), steps=3, ax=ax),
    "plot_sweep": lambda ax=None: plots.plot_sweep(result(), ax=ax),
    "plot_factors": lambda ax=None: plots.plot_factors(factors_of_a_model(), ax=ax),
    "plot_transfer": lambda ax=None: plots.plot_transfer(by_size(), ax=ax),
}


@pytest.mark.parametrize("name", CALLS)
def test_without_matplotlib(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=rf"^gdjax.plots.{name} draws with matplotlib: pip install gdjax\[plot\]$"):
        CALLS[name]()


def test_every_plot_is_called_here():
    assert set(CALLS) == set(plots.__all__) and gdjax.plot_schedule is plots.plot_schedule


@pytest.mark.parametrize("name", CALLS)
def test_draws_where_it_is_told(name: str, plt: Any):
    _, ax = plt.subplots()
    assert CALLS[name](ax) is ax and len(plt.get_fignums()) == 1
    new = CALLS[name]()
    figure = (new[0] if name in ("plot_losses", "plot_metrics") else new).figure
    assert len(plt.get_fignums()) == 2 and figure.get_facecolor() == (1, 1, 1, 1)
    assert plt.rcParams["font.size"] != look.LOOK["font.size"]  # the user's settings stay


def lines(ax: Any) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata()) for line in ax.get_lines()}


INSIDE = {
    "chain": lambda: gdjax.chain(gdjax.clip(1.0), gdjax.adamw(LINE)),
    "injected": lambda: gdjax.inject_hyperparams(gdjax.adam)(LINE),
    "Optax's": lambda: optax.inject_hyperparams(optax.adam)(LINE),
    "a wrapper": lambda: gdjax.apply_if_finite(gdjax.adam(LINE), 2),
    "by itself": lambda: LINE,
}


@pytest.mark.parametrize("name", INSIDE)
def test_the_schedule_inside(name: str, plt: Any):
    with relaxed():
        (line,) = plots.plot_schedule(INSIDE[name](), 12).get_lines()
    np.testing.assert_array_equal(line.get_xdata(), np.arange(12))
    np.testing.assert_allclose(line.get_ydata(), np.maximum(1 - np.arange(12) / 10, 0), atol=1e-6)


def test_groups_names_and_comparisons(plt: Any):
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    groups = gdjax.partition({"a": gdjax.sgd(LINE), "c": gdjax.adam(0.5)}, {"w": "a", "b": "c"})
    found = lines(plots.plot_schedule(groups, 4, params=params))
    assert {(k[0], k.rpartition("/")[2], float(x[0])) for k, x in found.items()} == {
        ("a", "learning_rate", 1.0), ("c", "learning_rate", 0.5)
    }  # fmt: skip
    moving = gdjax.scale_by_adam(b1=gdjax.linear_schedule(0.9, 0.5, 4))
    ax = plots.plot_schedule(moving, 5)
    assert ax.get_ylabel() == "b1" and ax.get_lines()[0].get_ydata()[-1] == 0.5
    assert list(lines(plots.plot_schedule(moving, 5, names=["b2"]))) == ["b2"]
    compared = lines(plots.plot_schedule({"down": LINE, "adam": gdjax.adam(0.1)}, 5))
    assert list(compared) == ["down", "adam learning_rate"]
    long = plots.plot_schedule(LINE, 10**6).get_lines()[0].get_xdata()
    assert len(long) <= 4000 and long[-1] == 10**6 - 1


@pytest.mark.parametrize(
    ("schedule", "steps", "options", "message"),
    [
        (3.0, 5, {}, "3.0 is neither a schedule nor an optimizer"),
        (LINE, 0, {}, "steps must be at least 1, got 0"),
        (lambda t: None, 5, {}, "returned None, not a number"),
        (gdjax.clip(1.0), 5, {}, "the optimizer has no learning rate, and no number of it changes"),
        (gdjax.adam(0.1), 5, {"names": ["b7"]}, r"no hyperparameter \['b7'\] among \['b1', 'b2'"),
    ],
)
def test_misuse_of_plot_schedule(schedule: Any, steps: int, options: dict[str, Any], message: str, plt: Any):
    with pytest.raises((TypeError, ValueError), match=f"gdjax.plots.plot_schedule: .*{message}|{message}"):
        plots.plot_schedule(schedule, steps, **options)


def test_losses_and_rates(plt: Any):
    runs = {k: gdjax.minimize(bowl, jnp.ones(2), gdjax.sgd(LINE), steps=n) for k, n in {"a": 9, "b": 7}.items()}
    losses, rates = plots.plot_losses(runs)
    np.testing.assert_array_equal(lines(losses)["b"], runs["b"].history["loss"])
    np.testing.assert_array_equal(lines(rates)["a learning_rate"], runs["a"].history["learning_rate"])
    losses, _ = plots.plot_losses(runs["a"].history, window=3)
    (line,) = losses.get_lines()
    assert line.get_xdata()[0] == 2
    np.testing.assert_allclose(line.get_ydata()[0], runs["a"].history["loss"][:3].astype(float).mean())
    assert losses.get_yscale() == "log"
    assert plots.plot_losses({"loss": np.array([1.0, -1.0, np.nan])})[0].get_yscale() == "linear"


def test_state_bytes(plt: Any):
    params = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
    txs = {"sgd": gdjax.sgd(0.1), "adam": gdjax.adam(0.1), "half": gdjax.adam(0.1, mu_dtype=jnp.bfloat16)}
    ax = plots.plot_state_bytes(txs, params)
    np.testing.assert_allclose([b.get_width() for b in ax.patches], [0, 32 + 4 / 1024, 24 + 4 / 1024], atol=0.01)
    assert ax.get_xlabel().startswith("state, KiB")
    assert [t.get_text() for t in ax.texts] == ["0 x", "2 x", "1.5 x"]


def test_plans(plt: Any):
    """A bar for each plan, made of its parts, by the numbers of devices."""
    params = {"w": jax.ShapeDtypeStruct((256, 256), jnp.float32)}
    made = lambda tx, n, **kwargs: gdjax.plan(tx, params, {"data": n}, memory=2**20, **kwargs)
    adam = [made(gdjax.adam(0.1), n, activations=2**18) for n in (64, 4)]
    ax = plots.plot_plan({"adam": adam, "sgd": made(gdjax.sgd(0.1), 16)})
    tops: dict[float, float] = {}
    for bar in ax.patches:
        tops[round(bar.get_x(), 6)] = max(tops.get(round(bar.get_x(), 6), 0), bar.get_y() + bar.get_height())
    shown = [plan.bytes_per_device / 2**10 for plan in (adam[1], made(gdjax.sgd(0.1), 16), adam[0])]
    np.testing.assert_allclose([tops[x] for x in sorted(tops)], shown)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["4", "16", "64"]
    assert ax.get_ylabel() == "on each device, KiB" and lines(ax)["memory of a device"][0] == 2**10
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "memory of a device", "parameters", "gradients", "state", "temporaries", "activations",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="plot_plan: plans has no plan"):
        plots.plot_plan({"adam": []})


def test_a_trajectory_is_that_of_the_loop(plt: Any):
    tx = gdjax.polyak_sgd(0.1)  # which needs the loss
    points = [np.ones(2)]
    gdjax.minimize(bowl, jnp.ones(2), tx, steps=5, callback=lambda i, p, *rest: points.append(np.array(p)))
    np.testing.assert_allclose(trajectory(tx, bowl, (1, 1), 5), points, rtol=1e-6)
    np.testing.assert_allclose(trajectory(tx, bowl, [[1], [1]], 5), points, rtol=1e-6)
    ax = plots.plot_trajectory({"polyak": tx, "sgd": gdjax.sgd(0.05)}, bowl, (1, 1), steps=5, minima=[(0, 0)])
    np.testing.assert_allclose(lines(ax)["polyak"], np.array(points)[:, 1], rtol=1e-6)
    left, right = ax.get_xlim()
    assert left < 0 < 1 < right
    plots.plot_trajectory(gdjax.sgd(1e20), bowl, (1, 1), steps=9)  # leaves
    plots.plot_trajectory(gdjax.sgd(0.1), lambda p: 0.0 * p[0], (1, 1), steps=2, window=(0, 2, 0, 2))  # a plane
    with pytest.raises(ValueError, match=r"plot_trajectory: start must have two numbers, got shape \(3,\)"):
        plots.plot_trajectory(tx, bowl, jnp.ones(3))


def test_a_sweep(plt: Any):
    found = result()
    ax = found.plot()
    np.testing.assert_array_equal(lines(ax)["momentum=0.5"], [found.scores[3], found.scores[1], np.nan])
    crosses = [line for line in ax.get_lines() if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[1e20], [1e20]]
    (ring,) = [line for line in ax.get_lines() if line.get_markersize() == 13]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (found.best.point["learning_rate"], found.best.score)
    assert (ax.get_xlabel(), ax.get_xscale()) == ("learning_rate", "log")
    assert result(evaluate=bowl).plot().get_ylabel() == "evaluation"
    result(grid={"learning_rate": [1e30]}).plot()  # all diverged


def test_best_rates_by_size(plt: Any):
    """A line for each size, in the order of the rates; a dot at its minimum, and the base's rate as a line."""
    found = by_size()
    ax = found.plot()
    drawn = lines(ax)
    for size, one in found.results.items():
        np.testing.assert_array_equal(drawn[f"{size}"], one.scores[[1, 2, 0]])
    dots = [line for line in ax.get_lines() if line.get_markersize() == 9]
    assert [line.get_xdata()[0] for line in dots] == [best.rate for best in found.best.values()]
    assert [line.get_ydata()[0] for line in dots] == [best.score for best in found.best.values()]
    (base,) = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert list(base.get_xdata()) == [found.best[1].rate] * 2
    assert ax.get_title() == f"{found.drift:+.2f} octaves a doubling" and ax.get_xlabel() == "learning_rate"
    two = plots.plot_transfer({"standard": found, "evaluated": by_size(evaluate=bowl)})
    assert [panel.get_title().partition("\n")[0] for panel in two] == ["standard", "evaluated"]
    assert two[0].get_ylim() == two[1].get_ylim()
    near = gdjax.SweepBySize(
        {n: x._replace(scores=np.array([1.2, 1.1, 1.0 + n, 9.0])) for n, x in found.results.items()}
    )
    low, high = near.plot().get_ylim()
    assert 0.9 < low < 1.1 and 1.1 < high < 2
    with pytest.raises(ValueError, match="plot_transfer: results has no result"):
        plots.plot_transfer({})
    with pytest.raises(ValueError, match="plot_transfer: 1 axes for 2 results"):
        plots.plot_transfer({"a": found, "b": found}, ax=ax)


def test_movements_by_width(plt: Any):
    found = moved()
    (line,) = found.plot().get_lines()
    np.testing.assert_allclose(line.get_ydata(), [1, 4], rtol=1e-5)
    assert line.get_label() == "w  +1.00" and list(line.get_xdata()) == [2, 8]


@pytest.mark.parametrize(
    "tx",
    [
        gdjax.adam(gdjax.per_leaf(LINE, {"bias$": 0.1})),
        gdjax.partition({"a": gdjax.adam(LINE), "b": gdjax.sgd(0.1)}, gdjax.label_by_path({"bias$": "b", ".*": "a"})),
    ],
    ids=["per_leaf", "partition"],
)
def test_patterns_for_another_tree_do_not_warn(plt: Any, tx: Any):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.plot_schedule(tx, 5)
    with pytest.warns(UserWarning, match="bias"):  # of the parameters that it is given
        plots.plot_schedule(tx, 5, params={"w": jnp.ones(2)})


def metrics(n: int = 30) -> dict[str, Any]:
    """The metrics of a run with groups, a clip, and a skipped step."""
    tx = gdjax.apply_if_finite(gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.1)), 3)
    tx = gdjax.with_metrics(tx, {"a": "left", "b": "right"}, norms=("grad", "update", "param"))
    params = {"a": jnp.ones(2), "b": jnp.full(3, 2.0)}

    def body(carry: Any, k: Any) -> Any:
        params, state = carry
        grads = jax.tree.map(lambda p: jnp.where(k == 7, jnp.nan, p * jnp.exp(-k / 3)), params)
        updates, state = tx.update(grads, state, params)
        return (gdjax.apply_updates(params, updates), state), gdjax.metrics(state)

    return jax.lax.scan(body, (params, tx.init(params)), jnp.arange(float(n)))[1]


@pytest.mark.full
def test_the_norms_of_a_run(plt: Any):
    history = metrics()
    axes = plots.plot_metrics(history)
    assert [ax.get_ylabel() for ax in axes] == ["norm of gradients", "norm of updates", "norm of parameters"]
    assert axes[0].get_yscale() == axes[1].get_yscale() == "log" and axes[2].get_yscale() == "linear"
    for ax, kind in zip(axes, ("grad", "update", "param"), strict=True):
        drawn = lines(ax)
        for label, name in {"all": "", "left": "left/", "right": "right/"}.items():
            expected = np.array(history[f"{name}{kind}_norm"], float)
            expected[7] = expected[7] if kind == "param" else np.nan  # the gradient is NaN, and the update is skipped
            np.testing.assert_array_equal(drawn[label], expected)
    marks = {line.get_label(): np.asarray(line.get_xdata()) for line in axes[0].get_lines()}
    np.testing.assert_array_equal(marks["skipped"], [7])
    np.testing.assert_array_equal(marks["clipped"], np.flatnonzero(np.asarray(history["clip_fraction"])))
    legends = [ax.get_legend() for ax in axes]
    assert [text.get_text() for text in legends[0].get_texts()] == ["all", "left", "right", "clipped", "skipped"]
    assert legends[1:] == [None, None]


def test_norms_of_rows_of_minimize_and_on_given_axes(plt: Any):
    rows = [{"grad_norm": 1.0 / k, "loss": 2.0} for k in range(1, 30)]
    (ax,) = plots.plot_metrics(rows)
    np.testing.assert_array_equal(lines(ax)["all"], [row["grad_norm"] for row in rows])
    run = gdjax.minimize(bowl, jnp.ones(2), gdjax.sgd(0.1), steps=5)
    assert [ax.get_ylabel() for ax in plots.plot_metrics(run)] == ["norm of gradients", "norm of updates"]
    _, one = plt.subplots()
    assert list(lines(plots.plot_metrics(run, ax=one))) == ["gradients", "updates"]
    _, three = plt.subplots(3)
    assert plots.plot_metrics(metrics(), ax=three) is three
    with pytest.raises(ValueError, match="3 axes for the norms of 2 kinds: grad_norm, update_norm"):
        plots.plot_metrics(run, ax=three)
    with pytest.raises(ValueError, match=r"no norm among \['loss'\]; make the optimizer with gdjax.with_metrics"):
        plots.plot_metrics({"loss": np.ones(3)})


def test_factors_of_a_larger_model():
    ax, table = plots.plot_factors(factors_of_a_model()), factors_of_a_model()
    dots = {line.get_label(): list(line.get_xdata()) for line in ax.get_lines() if line.get_linestyle() == "None"}
    assert dots == {kind: table[kind] for kind in ("rate", "decay", "eps", "start")}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["embed", "head", "mlp"]
