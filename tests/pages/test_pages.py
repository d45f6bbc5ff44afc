"""The programs in the pages run, and what the page on devices says is so."""

import inspect
import re
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gdjax
from tests.support import relaxed
from tests.trees import assert_close, precision

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ROOT / "docs" / "devices.md"
GUIDES = "metrics_and_states groups_and_rates write_a_rule write_a_wrapper write_a_matrix_method inspect".split()
GUIDES += ["matrix_methods", "kronecker", "hyperball", "muon", "recipes", "transfer"]
sharding = jax.sharding
P = sharding.PartitionSpec
OLD_FLAX = "model" not in inspect.signature(nnx.Optimizer.update).parameters  # before 0.11 it updates without the model
on_meshes = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")


def programs(page: Path) -> list[Any]:
    """The programs of a page, compiled so that an error shows the line of the page."""
    text = page.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [compile("\n" * text[: x.start(1)].count("\n") + x[1], str(page), "exec") for x in found]


def printed(page: Path) -> list[str]:
    """For each program of a page what it says that the program prints: the next block of text, if one comes before the
    next program."""
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    after = [*blocks[1:], ("", "")]
    return [
        text if then == "text" else ""
        for (kind, _), (then, text) in zip(blocks, after, strict=True)
        if kind == "python"
    ]


def test_readme():
    (first_run,) = programs(ROOT / "README.md")
    names: dict[str, Any] = {}
    with relaxed():
        exec(first_run, names)
    assert_close(names["params"]["w"], jnp.array([1.0, -2.0, 3.0]), 0.1, 0.1)


def test_readme_is_short_and_its_figures_stand_on_the_pages_that_it_names():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 90
    reasons = re.split(r"^\d\. ", text.partition("## Five reasons")[2].partition("\n## ")[0], flags=re.MULTILINE)[1:]
    assert len(reasons) == 5
    for reason in reasons:
        pages = [ROOT / link for link in re.findall(r"\]\(([\w/]+\.md)", reason)]
        measured = "".join(page.read_text("utf-8") for page in pages)
        figures = re.findall(r"(?<![\d.])\d+\.\d+(?![\d.]*\.\d)|\b\d+e\d+", reason)
        assert pages and [x for x in figures if not re.search(rf"(?<![\d.]){re.escape(x)}", measured)] == []


PLAIN = [
    "README.md",
    *(f"docs/{page}.md" for page in "index choose cookbook faq memory devices transfer solve".split()),
]
LONGEST = 35  # words


def sentences(text: str) -> list[str]:
    """Without programs, headings, tables, pictures and the targets of links; a colon ends one too."""
    text = re.sub(r"^ *```.*?^ *```$", "\n", text, flags=re.MULTILINE | re.DOTALL)
    lines = ["" if re.match(r" *(\||#|<|!\[|\[!\[)", line) else line for line in text.splitlines()]
    text = re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))
    parts = re.split(r"(?<=[.:!?;])[*_`)\]\"]*\s+|\n\s*\n|\n *- |\n *\d\. ", text)
    return [" ".join(part.split()) for part in parts if part.strip()]


@pytest.mark.parametrize("page", PLAIN)
def test_sentences_are_read_once(page: str):
    """Those of the pages that most people read."""
    found = sentences((ROOT / page).read_text("utf-8"))
    assert len(found) > 20 and [s for s in found if len(s.split()) > LONGEST] == []


@pytest.mark.programs
def test_train_and_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All programs of the page; where there is no matplotlib, those without plots."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {}
    *before, pictures = programs(ROOT / "docs" / "train_and_sweep.md")
    with relaxed():
        for program in before:
            exec(program, names)
        assert names["found"].best.score < 0.1 and names["result"].converged
        pyplot = pytest.importorskip("matplotlib.pyplot")
        exec(pictures, names)
    pyplot.close("all")
    assert (tmp_path / "trajectories.png").stat().st_size > 10_000


@pytest.mark.programs
@pytest.mark.parametrize("guide", GUIDES)
def test_the_guides(guide: str, capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {}
    page = ROOT / "docs" / f"{guide}.md"
    with relaxed():  # a guide for wrappers has one around Optax's Adam
        for program, text in zip(programs(page), printed(page), strict=True):
            exec(program, names)
            assert not text or capsys.readouterr().out == text


@pytest.mark.full
@pytest.mark.parametrize("shape", [(16, 8), (8, 24), (8, 8)])
def test_the_soap_of_the_page_is_that_of_the_library(shape: tuple[int, int]):
    """The first gradient has rank 2, so that the factors have null spaces when they get their first bases."""
    names: dict[str, Any] = {}
    exec(programs(ROOT / "docs" / "write_a_matrix_method.md")[0], names)
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(shape[0], r)) @ rng.normal(size=(r, shape[1])) for r in (2, *[8] * 13)]
    with precision("float64"):
        pair = gdjax.chain(names["my_soap"](k=3), gdjax.scale(-0.1)), gdjax.soap(0.1, precondition_frequency=3)
        params = {"kernel": jnp.zeros(shape)}
        states, steps = [tx.init(params) for tx in pair], [jax.jit(tx.update) for tx in pair]
        for t, g in enumerate(gradients):
            found = [step({"kernel": jnp.asarray(g)}, s, params) for step, s in zip(steps, states, strict=True)]
            states = [s for _, s in found]
            got, want = (np.asarray(u["kernel"]) for u, _ in found)
            assert (want == 0).all() == (t == 0)
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.linalg.norm(want))


@pytest.mark.full
@on_meshes
def test_the_page_on_plans(capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {}
    page = ROOT / "docs" / "plan.md"
    *before, picture = programs(page)
    for program, text in zip(before, printed(page), strict=False):
        exec(program, names)
        assert not text or capsys.readouterr().out == text
    assert names["fits"] == {("adamw", 4): False, ("adamw", 16): True, ("8 bits", 4): False, ("8 bits", 16): True}
    arguments, temporaries, *wire = names["found"]
    assert abs(arguments.percent) < 0.1 and abs(temporaries.percent) < 5 and {x.percent for x in wire} == {0}
    pyplot = pytest.importorskip("matplotlib.pyplot")
    exec(picture, names)
    pyplot.close("all")


def run(page: str, without: str | None = None) -> dict[str, Any]:
    """The names that the programs of a page leave, one after the other, but for those that use the name `without`."""
    names: dict[str, Any] = {}
    with relaxed():
        for program in programs(ROOT / "docs" / f"{page}.md"):
            if without not in program.co_names:
                exec(program, names)
    return names


@pytest.mark.full
def test_the_first_page(capsys: pytest.CaptureFixture[str]):
    names = run("index")
    assert_close(names["result"].params, {"w": jnp.array([1.0, -2.0, 3.0]), "b": 0.5}, 1e-3, 1e-3)
    assert names["loss"](names["params"]) < 1
    told = capsys.readouterr()
    assert "step 200/200" in told.err
    said = told.out if optax.__version__ == "0.2.8" else told.out.partition("optax")[0]
    assert said and "".join(printed(ROOT / "docs" / "index.md")).startswith(said)


@pytest.mark.programs
def test_the_questions_have_a_source_and_an_answer_that_runs():
    run("faq")
    questions = (ROOT / "docs" / "faq.md").read_text("utf-8").split("\n### ")[1:]
    assert len(questions) >= 25
    for question in questions:
        text, _, program = question.partition("```python\n")
        assert re.search(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", text), question[:60]
        assert re.search(r"^( *assert |same\()", program, re.MULTILINE), question[:60]


def test_the_page_on_choosing():
    names = run("choose")
    assert names["state"] is not None


@pytest.mark.programs
@pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")  # of Orbax, in old releases
def test_the_cookbook():
    names = run("cookbook", without="net_gradients" if OLD_FLAX else None)
    with relaxed():
        check_the_cookbook(names)


def check_the_cookbook(names: dict[str, Any]) -> None:
    params, loss = names["params"], names["loss"]
    for name in ("tuned", "grouped", "accumulated", "now", "average", "on_mesh", "flat", "searched", "clipped"):
        assert loss(names[name]) < loss(params), name
    assert_close(names["tuned"]["hidden"], params["hidden"], 0, 0)
    moved = jnp.abs(names["grouped"]["hidden"]["bias"] - params["hidden"]["bias"]).max()
    assert 1e-3 < moved < 20 * 3.1e-3  # twenty steps of Adam
    assert names["steps_made"] == 2
    assert_close(names["in_parts"], jax.grad(loss)(params))
    assert_close(names["restored"], {"params": names["params_then"], "state": names["state_then"]}, 0, 0)
    assert {g.dtype for g in jax.tree.leaves(names["gradients"])} == {jnp.dtype("float32")}
    assert_close(jax.device_get(names["by_pmap"]), jax.device_get(names["on_mesh"]))
    assert names["divided_state"][0].mu["hidden"]["kernel"].addressable_shards[0].data.shape == (4, 1)
    assert loss(names["result"].params) < 0.5 * loss(params)
    assert jnp.isfinite(names["slope"]) and jnp.abs(names["by_start"]["head"]["kernel"]).max() > 0
    assert all((u == 0).all() for u in jax.tree.leaves(names["updates"]))  # of the last recipe, a step that is skipped
    check_unfreezing(names)
    check_labels(names)
    check_sums(names)
    check_statistics(names)
    check_the_game(names)


def with_names(function: Any, names: dict[str, Any], **others: Any) -> Any:
    """A function of a page, where some names mean something else."""
    return types.FunctionType(function.__code__, names | others)


def check_unfreezing(names: dict[str, Any]) -> None:
    params, warm, first, then = (names[name] for name in ("params", "warm", "first", "then"))
    assert_close(warm["hidden"], params["hidden"], 0, 0)
    counts = [gdjax.tree.get(names["then_state"].inner_states[group], "count") for group in ("head", "hidden")]
    assert counts == [20, 0]
    gradients = jax.grad(names["loss"])(warm)
    going_on, _ = first.update(gradients, names["first_state"], warm)
    unfrozen, _ = then.update(gradients, names["then_state"], warm)
    assert_close(unfrozen["head"], going_on["head"], 0, 0)
    # A first step of Adam: the rate, here with a decay of a thousandth of it.
    assert_close(jnp.abs(unfrozen["hidden"]["kernel"]), jnp.full((4, 8), 1e-3), 1e-2)
    assert names["loss"](names["unfrozen"]) < names["loss"](warm)


def check_labels(names: dict[str, Any]) -> None:
    assert [row.group for row in names["table"]] == ["rest"] * 2 + ["norms"] * 2 + ["rest"] * 2
    net = names["net"]
    labels = names["nnx_labels"](nnx.state(net, nnx.Param))
    by_path = {jax.tree_util.keystr(k): x for k, x in jax.tree_util.tree_leaves_with_path(labels)}
    assert sorted(by_path.values()) == ["norms"] * 2 + ["rest"] * 4
    assert all((label == "norms") == ("1" in path) for path, label in by_path.items())
    assert OLD_FLAX or names["net_loss"](net) < names["net_loss_before"]


def check_sums(names: dict[str, Any]) -> None:
    params, four = names["params"], names["four"]
    assert_close(names["mean_gradient"](params, four), jax.grad(names["loss"])(params), 1e-5, 1e-7)
    assert names["state"] is not None and names["loss"](names["of_four"]) < names["loss"](params)
    # A gradient of 1 in each of 600 batches: a sum in bfloat16 stops growing at 256.
    ones = {"w": jnp.ones((), jnp.bfloat16)}, (jnp.ones(600, jnp.bfloat16),)
    found = with_names(names["mean_gradient"], names, loss=lambda p, x: p["w"] * x)(*ones)
    assert found["w"].dtype == jnp.bfloat16 and found["w"] == 1


def check_statistics(names: dict[str, Any]) -> None:
    dense, stats = names["mean_weights"]["Dense_0"], names["mean_stats"]["BatchNorm_0"]
    hidden = names["batches"] @ dense["kernel"] + dense["bias"]
    assert_close(stats, {"mean": hidden.mean((0, 1)), "var": hidden.var(1).mean(0)}, 1e-4, 1e-5)
    stale = names["stats"]["BatchNorm_0"]["mean"]
    assert jnp.abs(stale - stats["mean"]).max() > 1e-3, "the statistics of the training would do"
    assert jnp.mean((names["outputs"] - names["y"]) ** 2) < 0.8 * jnp.mean(names["y"] ** 2)


def check_the_game(names: dict[str, Any]) -> None:
    assert jnp.abs(names["game"][0]["shift"] - 3) < 1e-2 and jnp.abs(names["game"][1]["slope"]) < 1e-2
    generator, critic, plain = names["generator"], names["critic"], gdjax.sgd(0.3)
    play = jax.jit(with_names(names["play"].__wrapped__, names, generator_tx=plain, critic_tx=plain))
    game = generator, critic, plain.init(generator), plain.init(critic)
    for _ in range(50):
        game = play(*game)
    assert jnp.abs(game[0]["shift"] - 3) > 3, "plain steps do not circle"


@pytest.mark.programs
def test_the_page_on_frameworks():
    if OLD_FLAX:
        pytest.skip("Flax before 0.11 updates without the model, as the page says")
    names = run("frameworks")
    for way in ("nnx", "linen", "eqx"):
        losses = names[f"{way}_losses"]
        assert len(losses) == 20 and losses[-1] < 0.5 * losses[0]
    assert_close(names["solution"].value, jnp.arange(3.0), 1e-2, 1e-2)
    assert_close(names["rate"], 0.0099)
    held = names["unfrozen"].opt_state.inner_states
    assert [jax.tree.leaves(gdjax.tree.get(held[group], "count")) for group in ("first", "last")] == [[1], [6]]
    assert_close(nnx.state(names["averaged_model"], nnx.Param), names["average"], 0, 0)


@pytest.mark.programs
def test_the_page_on_adapters(capsys: pytest.CaptureFixture[str]):
    if OLD_FLAX:
        pytest.skip("Flax before 0.11 updates without the model, as the page on frameworks says")
    names = run("adapters")
    said = [text for text in printed(ROOT / "docs" / "adapters.md") if text]
    assert capsys.readouterr().out == "".join(said) and len(said) == 3
    held = [nnx.state(names["optimizer"], nnx.optimizer.OptState), names["state"], names["opt_state"]]
    sizes = [sum(x.nbytes for x in jax.tree.leaves(state)) for state in held]
    step = 4  # a count of nnx's own
    assert sizes == [names["nnx_bytes"] + step, names["linen_bytes"], names["eqx_bytes"]]
    for way in ("nnx", "linen", "eqx"):
        losses = names[f"{way}_losses"]
        assert len(losses) == 20 and losses[-1] < 0.9 * losses[0]
    assert_close(names["params"]["LoRADense_0"]["base"], names["start"]["LoRADense_0"]["base"], 0, 0)
    assert_close(names["mlp"].layers[0].base.weight, names["trained"].layers[0].weight, 0, 0)
    fresh = nnx.Linear(32, 128, rngs=nnx.Rngs(0))
    assert_close(names["hidden"].kernel[...], fresh.kernel[...], 0, 0)
    both = nnx.Any(nnx.LoRAParam, nnx.PathContains("bias"))
    assert len(jax.tree.leaves(nnx.state(names["model"], both))) == 4


@pytest.mark.full
def test_the_page_on_comparing():
    names = run("compare")
    assert names["same"] < 1e-4 and names["same"] < names["free"]
    assert names["losses"].shape == (8,) and names["losses"].argmin() not in (0, 7)


def test_the_page_for_users_of_torch():
    names = run("from_pytorch")
    assert names["loss"] == 1
    # As the documentation of torch.optim.lr_scheduler defines them.
    lr, t = 0.1, np.arange(40)
    triangle = np.abs((t / 8) % 2 - 1)
    want = {
        "step_lr": lr * 0.5 ** (t // 10),
        "multi_step_lr": lr * 0.5 ** ((t >= 10).astype(int) + (t >= 30)),
        "linear_lr": lr * (0.2 + 0.8 * np.minimum(t, 20) / 20),
        "cosine_lr": 0.01 + (lr - 0.01) * (1 + np.cos(np.pi * t / 40)) / 2,
        "cyclic_lr": 0.01 + (lr - 0.01) * (1 - triangle),
    }
    assert set(names["rates"]) == set(want)
    for name, rates in names["rates"].items():
        np.testing.assert_allclose(rates, want[name], rtol=1e-5, err_msg=name)


TREE = {"a": jnp.arange(1.0, 13.0).reshape(3, 4) / 4, "b": jnp.ones(2)}
# After one infinite gradient: its own update, the others of its array, the next update of its own.
INFINITE = {
    "adam": "nan finite nan", "adagrad": "nan finite nan", "rmsprop": "nan finite nan", "adabelief": "nan finite nan",
    "sm3": "nan finite nan", "cocob": "nan finite nan", "lamb": "nan finite nan",
    "adafactor": "nan finite finite", "fromage": "nan finite finite", "galore": "nan finite finite",
    "lars": "nan finite nan", "novograd": "nan finite nan", "adaptive_grad_clip": "nan finite finite",
    "polyak_sgd": "nan finite finite", "dog": "nan finite finite",
    "muon": "nan nan nan", "psgd_kron": "nan nan nan", "momo": "nan nan nan", "prodigy": "nan nan nan",
    "clip_by_global_norm": "nan zero finite", "clip_by_block_rms": "nan zero finite", "normalize": "nan zero finite",
    "sgd": "inf finite finite", "trace": "inf finite inf",
    "lion": "finite finite finite", "signum": "finite finite finite", "clip": "finite finite finite",
}  # fmt: skip
CALLS = {"galore": {"learning_rate": 0.1, "rank": 2}, "trace": {"decay": 0.9}, "cocob": {}, "normalize": {}}


def kind(x: Any) -> str:
    if jnp.isnan(x).any():
        return "nan"
    return "inf" if jnp.isinf(x).any() else "zero" if (x == 0).all() else "finite"


@pytest.mark.full
@pytest.mark.parametrize("name", INFINITE)
def test_what_the_page_on_numbers_says_of_an_infinity(name: str):
    factory = getattr(gdjax, name)
    tx = factory(**CALLS[name]) if name in CALLS else factory(0.1)
    extra = {"value": 1.0} if name in ("polyak_sgd", "momo") else {}
    update = jax.jit(lambda g, s: tx.update(g, s, TREE, **extra))
    _, state = update(TREE, tx.init(TREE))
    first, state = update({**TREE, "a": TREE["a"].at[1, 2].set(jnp.inf)}, state)
    then, _ = update(TREE, state)
    own, others = first["a"][1, 2], jnp.delete(first["a"].ravel(), 6)
    assert f"{kind(own)} {kind(others)} {kind(then['a'][1, 2])}" == INFINITE[name]
    assert name in (ROOT / "docs" / "numbers.md").read_text("utf-8")


@pytest.mark.full
def test_the_programs_for_several_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names: dict[str, Any] = {}
    for program in programs(ROOT / "docs" / "processes.md"):
        exec(program, names)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["step 5", "step 10", "step 15"]
    resumed = jax.device_get((names["params"], names["state"]))
    assert names["state"][0].mu["w"].addressable_shards[0].data.shape == (2, 8)
    assert_close(resumed, jax.device_get(names["train"](15, tmp_path / "whole")), 0.0, 0.0)


@pytest.mark.programs
@on_meshes
@pytest.mark.parametrize("tx", [None, gdjax.sgd(0.1, momentum=0.9)], ids=["as written", "to scale"])
def test_the_programs_for_many_devices(tx: Any):
    names: dict[str, Any] = {}
    with relaxed():
        for program in programs(DEVICES):
            exec(program, names)
            names["tx"] = names["tx"] if tx is None else tx  # clipping and Adam hide a gradient 8 times too large
        loss, start, x, y = (names[name] for name in ("loss", "start", "x", "y"))
        params, state = start, names["tx"].init(start)
        for _ in range(5):
            params, state = jax.jit(names["step"])(params, state, x, y)
        own = [jax.grad(loss)(start, x[i : i + 8], y[i : i + 8]) for i in range(0, 64, 8)]
    assert "pass weighted=True" in names["found"].warnings[0] and not names["agrees"].warnings
    for way in ("by_jit", "by_shares", "by_types", "by_shard_map", "by_explicit_axes", "by_parts"):
        assert len(names[way]["w"].sharding.device_set) == 8
        assert_close(jax.device_get(names[way]), params)
    parts = [x.addressable_shards[0].data.shape for x in jax.tree.leaves(names["parts"])]
    assert parts.count((2, 8)) == (2 if tx is None else 1)
    matrices = [x for x in jax.tree.leaves((names["by_explicit_axes"], names["explicit_state"])) if x.ndim == 2]
    assert {str(jax.typeof(x)) for x in matrices} == {"float32[16@data,8]"} and len(matrices) == (
        3 if tx is None else 2
    )
    # What each device clips alone has another mean.
    assert all(gdjax.global_norm(g) > 1 for g in own)
    apart = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), names["clipped_before_the_mean"], params)
    assert max(jax.tree.leaves(apart)) > 1e-3


@pytest.mark.full
@on_meshes
def test_the_programs_for_replicas(capsys: pytest.CaptureFixture[str]):
    page, names = ROOT / "docs" / "diloco.md", {}
    with relaxed():
        for program, text in zip(programs(page), printed(page), strict=True):
            exec(program, names)
            assert not text or capsys.readouterr().out == text


def mapped(f: Any, x: Any, w: Any, out_specs: Any) -> Any:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(P("data"), P()), out_specs=out_specs))(x, w)


@on_meshes
def test_gradients_inside_shard_map():
    x, w = jnp.arange(16.0), jnp.ones(())
    grad = jax.grad(lambda w, x: jnp.mean(w * x))
    assert_close(mapped(lambda x, w: jax.lax.pmean(grad(w, x), "data"), x, w, P()), 8 * jnp.mean(x))
    own = mapped(lambda x, w: grad(jax.lax.pcast(w, "data", to="varying"), x)[None], x, w, P("data"))
    assert_close(own, (x[::2] + x[1::2]) / 2)


@on_meshes
def test_own_gradients_with_a_common_state():
    tx, x, w = gdjax.sgd(1.0, momentum=0.5), jnp.arange(8.0), jnp.ones(1)

    def update(x: Any, w: Any) -> Any:
        return tx.update(x, tx.init(w), w)

    u, state = mapped(update, x, w, P("data"))
    assert_close(u, -x)
    assert_close(state[0].trace, x)
    with pytest.raises(ValueError, match="out_specs"):
        mapped(lambda x, w: gdjax.apply_updates(w, update(x, w)[0]), x, w, P())
    averaged = mapped(lambda x, w: gdjax.apply_updates(w, jax.lax.pmean(update(x, w)[0], "data")), x, w, P())
    assert_close(averaged, w - jnp.mean(x)[None])


@on_meshes
def test_what_the_states_on_explicit_axes_are():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(sharding.AxisType.Explicit,))
    p = jax.device_put(jnp.ones((16, 8)), sharding.NamedSharding(mesh, P("data")))

    def kinds(tx: Any) -> list[str]:
        return [str(jax.typeof(x)) for x in jax.tree.leaves(tx.init(p)) if x.ndim]

    divided, rows, columns = "float32[16@data,8]", "float32[16@data]", "float32[8]"
    with sharding.set_mesh(mesh):
        assert kinds(gdjax.adam(0.1)) == [divided] * 2
        assert {rows, columns} <= set(kinds(gdjax.adafactor(0.1, min_dim_size_to_factor=4)))
        assert set(kinds(gdjax.sm3(0.1))) == {rows, columns, divided}
        assert kinds(gdjax.scale_by_muon())[0] == divided
        assert kinds(gdjax.flatten(gdjax.adam(0.1))) == ["float32[128]"] * 2
        assert set(kinds(gdjax.galore(0.1, rank=2))) == {"float32[2,8]", "float32[16,2]"}
        assert kinds(gdjax.measure_with_ema(gdjax.global_norm, 0.9)) == []
        assert kinds(gdjax.monitor({"norm": gdjax.global_norm})) == []
        gdjax.set_to_zero().update(p, gdjax.EmptyState())
    calls = [
        lambda: gdjax.monitor({"norm": gdjax.global_norm}).init(p),
        lambda: gdjax.measure_with_ema(gdjax.global_norm, 0.9).init(p),
    ]
    zeros = lambda: gdjax.set_to_zero().update(p, gdjax.EmptyState())
    if jax.__version_info__ < (0, 12):
        calls.append(zeros)
    else:
        zeros()
    for call in calls:
        with pytest.raises(ValueError, match="Please enter your `jit` into a mesh context via `jax.set_mesh`"):
            call()
