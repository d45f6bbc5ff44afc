"""gdjax in Optax's place: the programs here run in processes of their own, where `import optax` must give gdjax."""

import functools
import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import as_optax
from tests.contracts.test_surface import surface
from tests.support import relaxed
from tests.trees import assert_close, assert_equal

pytestmark = pytest.mark.programs

PARAMS = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}
GRADIENTS = jax.tree.map(lambda p: 0.1 * p + 0.3, PARAMS)
INSTALLED = "from gdjax import as_optax\nas_optax.install()\n"


def python(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def printed(cwd: Path, *arguments: str) -> list[str]:
    run = python(cwd, *arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("module", [False, True], ids=["a file", "a module"])
def test_a_program_runs_as_python_runs_it(tmp_path: Path, module: bool):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "beside.py").write_text("import optax\ntx = optax.adam(0.5)\n")
    (tmp_path / "folder" / "program.py").write_text(
        "import dataclasses, pickle, sys\n"
        "@dataclasses.dataclass\n"
        "class Config:\n    steps: int = 3\n"
        "assert pickle.loads(pickle.dumps(Config())) == Config()\n"
        "print(__name__, __file__)\nprint(*sys.argv, sep='|')\n"
        "if 'gdjax' in sys.modules:  # started by as_optax\n"
        "    import beside, gdjax\n    from gdjax import as_optax\n"
        "    as_optax.install()  # again, which changes nothing\n"
        "    print(beside.tx == gdjax.adam(0.5), sys.modules['optax'] is beside.optax)\n"
        "sys.exit(7)\n"
    )
    place = ("-m", "program") if module else (str(tmp_path / "folder" / "program.py"),)
    cwd = tmp_path / "folder" if module else tmp_path
    plain, ours = (python(cwd, *before, *place, "-x", "--lr=1") for before in ((), ("-m", "gdjax.as_optax")))
    assert ours.returncode == plain.returncode == 7, ours.stderr + plain.stderr
    assert len(plain.stdout.splitlines()) == 2
    assert ours.stdout.splitlines() == [*plain.stdout.splitlines(), "True True"]


@pytest.mark.parametrize("arguments", [[], ["-m"], ["--lr=1"]])
def test_without_a_program_it_tells_how_to_name_one(arguments: list[str]):
    with pytest.raises(SystemExit, match="^usage: ") as error:
        as_optax.main(arguments)
    assert error.value.code == as_optax.USAGE  # which Python prints, and ends with 1


def test_every_way_to_import_finds_gdjax(tmp_path: Path):
    lines = printed(
        tmp_path,
        "-c",
        INSTALLED + "import importlib, importlib.util, gdjax\n"
        "import optax, optax.losses as losses\n"
        "import optax._src.transform\n"
        "import optax.contrib._muon as muon\n"
        "from optax import tree_utils as otu, GradientTransformation\n"
        "from optax._src import base, combine, linear_algebra, numerics, utils\n"
        "from optax.schedules import *\n"
        "assert optax.adam is gdjax.adam and GradientTransformation is gdjax.GradientTransformation\n"
        "assert losses.l2_loss is gdjax.losses.l2_loss and muon.scale_by_muon is gdjax.scale_by_muon\n"
        "assert optax._src.transform.ScaleByAdamState is gdjax.ScaleByAdamState\n"
        "assert otu.tree_norm is gdjax.tree.norm and optax.tree.norm is gdjax.tree.norm\n"
        "assert combine.chain is gdjax.chain and linear_algebra.global_norm is gdjax.global_norm\n"
        "assert numerics.safe_int32_increment is gdjax.safe_int32_increment\n"
        "assert linear_schedule is gdjax.linear_schedule\n"
        "assert importlib.import_module('optax.projections').projection_box is gdjax.projections.projection_box\n"
        "assert importlib.util.find_spec('optax') and isinstance(base.NO_PARAMS_MSG, str)\n"
        "as_optax.install()\n"
        "print(optax.__version__, gdjax.__version__ == optax.__version__, importlib.import_module('optax') is optax)\n",
    )
    assert lines == [f"{as_optax.VERSION} False True"]


@functools.cache
def modules() -> dict[str, Any]:
    return as_optax.modules()


def test_every_module_and_public_name_of_optax_is_there():
    assert as_optax.VERSION == optax.__version__ or optax.__version__ > "0.2.8"
    files = Path(optax.__file__).parent.rglob("*.py")
    names = {"optax." + ".".join(p.relative_to(Path(optax.__file__).parent).with_suffix("").parts) for p in files}
    names = {n for n in names if not n.endswith(("_test", ".test_utils", ".__init__", ".deprecations"))}
    assert names - set(modules()) == set()
    absent = []
    for name, _ in surface():
        place, _, own = f"optax.{name}".rpartition(".")
        if not hasattr(modules()[place.replace(".aggregating", "._aggregating")], own):
            absent.append(name)
    assert absent == []


def test_a_name_that_is_not_there_says_so():
    with pytest.raises(AttributeError, match=r"gdjax.*optax\.losses\.none_such"):
        _ = modules()["optax.losses"].none_such
    with pytest.raises(AttributeError, match=r"gdjax.*optax\._src\.base\.none_such"):
        _ = modules()["optax"]._src.base.none_such


def test_the_private_helpers_do_what_optax_does():
    ours, theirs = modules()["optax._src.utils"], importlib.import_module("optax._src.utils")
    for dtype in (None, "bfloat16", int, float):
        assert ours.canonicalize_dtype(dtype) == theirs.canonicalize_dtype(dtype)
    for key in (3, jax.random.key(5)):
        assert ours.canonicalize_key(key) == theirs.canonicalize_key(key)
    a, d = jnp.arange(18.0).reshape(2, 3, 3), -jnp.arange(6.0).reshape(2, 3)
    assert_equal(ours.set_diags(a, d), theirs.set_diags(a, d))


@pytest.mark.parametrize("name", sorted(as_optax.DEPRECATED))
def test_it_warns_where_optax_does(name: str):
    arguments = (0.1,) if name == "optimistic_adam" else (jnp.full(2, -0.7), jnp.full(2, 0.5))
    ours = getattr(gdjax, name)(*arguments)
    with pytest.warns(DeprecationWarning, match="deprecated: use .* instead"):
        assert np.all(getattr(modules()["optax"], name)(*arguments) == ours)
    with pytest.warns(DeprecationWarning), jax.numpy_dtype_promotion("standard"):
        getattr(optax, name)(*arguments)


MAKERS = [
    "optax.adam(0.1)",
    "optax.contrib.prodigy(0.1)",
    "optax.contrib.muon(0.1)",
    "optax.MultiSteps(optax.adamw(0.1), 2)",
    "optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9)",
    "optax.masked(optax.lion(0.1), {'w': True, 'b': False})",
    "optax.partition({'w': optax.adafactor(0.1), 'b': optax.lamb(0.1)}, {'w': 'w', 'b': 'b'})",
]


def test_pickles_of_states_of_optax_go_on(tmp_path: Path):
    before, wanted = [], []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # for Optax
        for maker in MAKERS:
            tx = eval(maker)
            _, state = (update := jax.jit(tx.update))(GRADIENTS, tx.init(PARAMS), PARAMS)
            before.append(state)
            wanted.append(jax.tree.leaves(update(GRADIENTS, state, PARAMS)))
    (tmp_path / "before").write_bytes(pickle.dumps(jax.device_get((PARAMS, GRADIENTS, before))))
    printed(
        tmp_path,
        "-c",
        INSTALLED + "import pickle, jax, optax\n"
        "params, gradients, before = pickle.load(open('before', 'rb'))\n"
        "after = []\n"
        f"for maker, state in zip({MAKERS!r}, before):\n"
        "    tx = eval(maker)\n"
        "    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params)), maker\n"
        "    after.append(jax.tree.leaves(jax.jit(tx.update)(gradients, state, params)))\n"
        "pickle.dump(jax.device_get(after), open('after', 'wb'))\n",
    )
    after = pickle.loads((tmp_path / "after").read_bytes())
    for maker, ours, theirs in zip(MAKERS, after, wanted, strict=True):
        assert len(ours) == len(theirs), maker
        assert_close(ours, theirs)


def test_importing_gdjax_installs_nothing_and_installing_refuses_where_optax_is_imported(tmp_path: Path):
    program = "import sys, gdjax\nprint([n for n in sys.modules if 'optax' in n], flush=True)\nimport optax\n"
    run = python(tmp_path, "-c", program + INSTALLED)
    assert run.returncode == 1 and run.stdout == "[]\n"
    assert "ImportError: gdjax.as_optax.install: optax is imported already, from " in run.stderr


def test_reload_leaves_the_modules_as_they_are(tmp_path: Path):
    lines = printed(
        tmp_path,
        "-c",
        INSTALLED + "import importlib, gdjax, optax, optax.losses\nfrom optax._src import base\n"
        "for module in (optax, optax.losses, base):\n"
        "    names = sorted(vars(module))\n"
        "    assert importlib.reload(module) is module and sorted(vars(module)) == names\n"
        "    print(module.__name__, module.__file__ == as_optax.__file__)\n"
        "print(optax.adam is gdjax.adam, importlib.util.find_spec('optax').name)\n",
    )
    assert lines == ["optax True", "optax.losses True", "optax._src.base True", "True optax"]


def _schedule_free_losses(library: Any, make: Any) -> Any:
    a, b = jax.random.normal(jax.random.key(0), (32, 8)), jnp.arange(32.0) / 8
    loss = lambda p: jnp.mean((a @ p - b) ** 2)
    params, tx = jnp.zeros(8), make()
    state, losses = tx.init(params), []
    step = jax.jit(lambda p, s: (jax.value_and_grad(loss)(p), s))
    for _ in range(50):
        (value, gradient), state = step(params, state)
        updates, state = tx.update(gradient, state, params)
        params = library.apply_updates(params, updates)
        losses.append(float(value))
    return np.asarray(losses)


def test_optaxs_weights_in_schedule_free():
    """What the page `from_optax` says: the form with Optax's weights, and how far the plain call is from them."""
    f = optax.warmup_constant_schedule(0.0, 0.05, 10)
    later = lambda t: f(t + 1)
    direction = gdjax.scale_by_rms(decay=0.999, eps=1e-8, bias_correction=True)
    forms = {
        "adamw": gdjax.schedule_free(gdjax.chain(direction, gdjax.scale_by_learning_rate(f)), later, b1=0.9),
        "sgd": gdjax.schedule_free(gdjax.sgd(f), later, b1=0.9),
    }
    for name, tx in forms.items():
        theirs, plain = (getattr(library.contrib, f"schedule_free_{name}") for library in (optax, gdjax))
        with relaxed():
            wanted = _schedule_free_losses(optax, lambda theirs=theirs: theirs(0.05, warmup_steps=10))
        found = _schedule_free_losses(gdjax, lambda tx=tx: tx)
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-5)
        unchanged = _schedule_free_losses(gdjax, lambda plain=plain: plain(0.05, warmup_steps=10))
        assert np.max(np.abs(unchanged - wanted)) > 1e-2


def test_schedule_free_warns_of_its_weights_in_the_place_of_optax():
    module = as_optax.modules()["optax"].contrib
    for tell in (
        lambda: module.schedule_free_adamw(0.1, warmup_steps=2),
        lambda: module.schedule_free_sgd(lambda t: 0.1),
        lambda: module.schedule_free(gdjax.sgd(0.1), optax.linear_schedule(0.1, 0.2, 3)),
    ):
        with pytest.warns(UserWarning, match="gdjax, in the place of Optax: schedule_free.*step t \\+ 1"):
            tell()
    assert module.schedule_free_adamw(0.1, warmup_steps=0) == gdjax.schedule_free_adamw(0.1, warmup_steps=0)
    assert module.schedule_free(gdjax.sgd(0.1), 0.1) == gdjax.schedule_free(gdjax.sgd(0.1), 0.1)
