"""Every recipe of a matrix method, as printed in the pages and docstrings, on real models: which leaf gets what."""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import gdjax
from gdjax.core.paths import paths_of
from gdjax.inspection.explain import first, rate_of
from gdjax.inspection.walk import Walk, shapes_of
from tests.interop.test_roles import KEY, TOKENS, EqxGPT, of_equinox, of_linen, of_nnx, of_shapes, table

ROOT = Path(__file__).resolve().parents[2]
METHODS = frozenset(
    "muon normuon scion dion dion2 soap shampoo kl_soap kl_shampoo soap_muon psgd_kron galore".split()
    + ["transformer_optimizer", "hyperball"]
)
AROUND = frozenset("partition chain hyperball with_metrics MultiSteps".split())
# Mistakes that pages show as such.
WRONG = {
    ("inspect", "gdjax.chain(gdjax.muon(0.02), gdjax.clip_by_global_norm(1.0))"),
    ("matrix_methods", "gdjax.partition({'matrix': gdjax.muon(0.02), 'rest': gdjax.adamw(0.001)}, by_path)"),
}
# Overrides speak of the model of their page.
OWN = {
    "matrix_methods": {
        "attn/qkv/kernel": (12, 64, 192),
        "attn/qkv/bias": (12, 192),
        "mlp/down": (12, 256, 64),
        "Dense_1/kernel": (8, 10),
    },
    "kronecker": {"embed/kernel": (2, 32), "embed/bias": (32,), "hidden/kernel": (32, 32), "lm_head/kernel": (32, 1)},
    "hyperball": {f"attention/{k}/kernel": (16, 4, 4) for k in ("query", "key")}
    | {"attention/value/kernel": (16, 16), "out/kernel": (16, 16), "out/bias": (16,)},
}


class Recipe(NamedTuple):
    page: str
    source: str  # of the expression
    names: dict[str, str]  # what the page calls other expressions

    def value(self, source: str) -> Any:
        names: dict[str, Any] = {**vars(gdjax), "gdjax": gdjax, "jnp": jnp, "steps": 100}
        names |= {"lr": 0.02, "rate": 0.02, "learning_rate": 0.02, "adam_rate": 1e-3}
        for name, text in self.names.items():
            names[name] = eval(text, names)
        return eval(source, names)

    @property
    def whole(self) -> str:
        return "\n".join([*self.names.values(), self.source])

    @property
    def overrides(self) -> bool:
        return re.search(r"matrices_by_role\(\{|roles=\{", self.whole) is not None


def called(node: ast.AST) -> str:
    """The name of a function of the library, or "" if a node calls none."""
    f = node.func if isinstance(node, ast.Call) else None
    if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name | ast.Attribute):
        return f.attr
    return f.id if isinstance(f, ast.Name) else ""


def recipes_in(page: str, code: str) -> Iterator[Recipe]:
    """The expressions that make an optimizer with a matrix method, with the names that they need."""
    known: dict[str, str] = {}
    for statement in ast.parse(code).body:
        yield from (Recipe(page, ast.unparse(x), needed(x, known)) for x in outermost(statement))
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            known[statement.targets[0].id] = ast.unparse(statement.value)


def outermost(node: ast.AST) -> Iterator[ast.AST]:
    """The largest expressions that are a matrix method, or are around one."""
    name = called(node)
    inside = {called(x) for x in ast.walk(node)} & METHODS
    if name in METHODS or name in AROUND and inside:
        yield node
    elif not isinstance(node, ast.FunctionDef):
        for child in ast.iter_child_nodes(node):
            yield from outermost(child)


def needed(node: ast.AST, known: dict[str, str]) -> dict[str, str]:
    """The names in an expression that stand for expressions before it, and what these need, in order."""
    found: dict[str, str] = {}
    for x in ast.walk(node):
        if isinstance(x, ast.Name) and x.id in known:
            source = known[x.id]
            others = {k: v for k, v in known.items() if k != x.id}
            found |= needed(ast.parse(source, mode="eval"), others) | {x.id: source}
    return found


def in_pages() -> Iterator[Recipe]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text("utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        yield from recipes_in(path.stem, "\n".join(blocks))
        outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`((?:\w+)\([^`]*\))`", outside):
            if code.partition("(")[0] in METHODS and "..." not in code and not IN_PART.search(code):
                yield from recipes_in(path.stem, code)


# Inline code that is no recipe: an argument alone.
IN_PART = re.compile(r"^muon\((adaptive|ns_dtype=\"bfloat16\"|consistent_rms=0.2|like=\"torch\")\)$|scale_by")


def in_docstrings() -> Iterator[Recipe]:
    for name in gdjax.__all__:
        text = inspect.getdoc(getattr(gdjax, name)) or ""
        for block in re.findall(r"(?:^ {4,}\S.*\n?)+", text, re.MULTILINE):
            try:
                yield from recipes_in(name, textwrap.dedent(block))
            except SyntaxError:
                continue  # a formula


ALL = {f"{recipe.page}: {recipe.whole}": recipe for recipe in [*in_pages(), *in_docstrings()]}
RECIPES = {f"{r.page} {i}": r for i, r in enumerate(ALL.values()) if (r.page, r.source) not in WRONG}


class LinenBlock(linen.Module):
    """With biases, which have two axes in attention."""

    @linen.compact
    def __call__(self, x: Any, _: Any = None) -> Any:
        x = x + linen.MultiHeadDotProductAttention(4)(linen.LayerNorm()(x))
        return x + linen.Dense(32)(linen.gelu(linen.Dense(128)(linen.LayerNorm()(x)))), None


class LinenLM(linen.Module):
    scanned: bool

    @linen.compact
    def __call__(self, tokens: Any) -> Any:
        x = linen.Embed(100, 32)(tokens)
        if self.scanned:
            kinds = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 3}
            x, _ = linen.scan(LinenBlock, **kinds)(name="layers")(x, None)
        else:
            x, _ = LinenBlock()(x)
        return linen.Dense(100, name="lm_head")(linen.LayerNorm()(x))


class NnxLM(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.wte = nnx.Embed(100, 32, rngs=rngs)
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(32, 128, rngs=rngs), nnx.Linear(128, 32, rngs=rngs)
        self.lm_head = nnx.Linear(32, 100, rngs=rngs)


PLAIN = {"embed": (100, 32), "layers/0/w": (32, 64), "layers/0/b": (64,), "layers/1/w": (64, 32), "layers/1/b": (32,)}
HEADS = {r"(query|key|value)/kernel$": ((0,), (1, 2)), r"out/kernel$": ((0, 1), (2,))}
SCANNED = {r"(query|key|value)/kernel$": ((1,), (2, 3)), r"out/kernel$": ((1, 2), (3,))}
# For each model the hidden matrices, by hand: a pattern of their paths, and the axes of the rows and the columns.
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (lambda: of_shapes({**PLAIN, "head": (32, 100)}), {r"/w$": ((0,), (1,))}),
    "attention": (lambda: of_linen(LinenLM(False), TOKENS), {**HEADS, r"Dense_\d/kernel$": ((0,), (1,))}),
    "scanned": (lambda: of_linen(LinenLM(True), TOKENS), {**SCANNED, r"Dense_\d/kernel$": ((1,), (2,))}),
    "nnx": (lambda: of_nnx(lambda: NnxLM(nnx.Rngs(0))), {**HEADS, r"(up|down)/kernel$": ((0,), (1,))}),
    "equinox": (
        lambda: of_equinox(EqxGPT, KEY),
        {r"^first/.*(proj|layers/\d)/weight$": ((1,), (0,)), r"^layers/.*(proj|layers/\d)/weight$": ((2,), (1,))},
    ),
}


@functools.cache
def model(name: str) -> Any:
    return shapes_of("test", MODELS[name][0]())


def number(rate: Any) -> float:
    """That of a row of `explain`, or the first value of a schedule."""
    return float(re.sub(r"schedule: | \.\.\.", "", rate)) if isinstance(rate, str) else rate


def adams_rates(recipe: Recipe) -> set[float]:
    """Those that a recipe gives Adam in so many words."""
    found = set()
    for text in (recipe.source, *recipe.names.values()):
        for x in ast.walk(ast.parse(text, mode="eval")):
            given = [k.value for k in getattr(x, "keywords", ()) if k.arg == "adam_learning_rate"]
            given += x.args[:1] if called(x) in ("adamw", "adam") else []  # type: ignore[attr-defined]
            found |= {first(recipe.value(ast.unparse(k))) for k in given}
    return {float(f"{x:.4g}") for x in found if x is not None}  # as `explain` rounds schedules


@functools.cache
def hidden(name: str) -> dict[str, Any]:
    """The axes of the hidden matrices of a model, by path."""
    paths = [path for path, _ in paths_of(model(name))]
    each = [[(path, axes) for path in paths if re.search(pattern, path)] for pattern, axes in MODELS[name][1].items()]
    assert all(each)
    return dict(sum(each, []))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recipe", [pytest.param(r, id=key) for key, r in RECIPES.items() if not r.overrides])
def test_which_leaf_gets_what(recipe: Recipe, name: str):
    """Hidden matrices the method, with their axes; all else another one, at its own rate. And nothing warns."""
    tx, params, own = recipe.value(recipe.source), model(name), adams_rates(recipe)
    jax.eval_shape(lambda params: tx.init(params), params)  # a function of its own: JAX keeps traces of equal ones
    walked = Walk(tx, params)
    assert [slip for _, slip in walked.slips if slip.leaves] == []
    assert set(walked.notes) <= {"no leaf is in the group 'rest'"}
    for i, (path, _) in enumerate(paths_of(params)):
        mine = [part for part in walked.parts if i in part.leaves and part.name != "hyperball"]
        names = {part.name for part in mine}
        if "adamw" in recipe.source and "hyperball" in recipe.source:  # AdamH: Adam for all
            assert "adam" in names and not names & METHODS, path
        elif path in hidden(name):
            assert names & METHODS and "adam" not in names, path
            assert (walked.plan[i].axes.rows, walked.plan[i].axes.columns) == hidden(name)[path], path
        else:
            assert not names & METHODS and names & {"adam", "set_to_zero"}, path
            assert "set_to_zero" in names or not own or number(rate_of(mine, i)) in own, path


PUBLIC: dict[str, Any] = {
    "kimi_k2": gdjax.recipes.kimi_k2(0.02, tau=None),
    "deepseek_v4": gdjax.recipes.deepseek_v4(0.02),
    "glm_5": gdjax.recipes.glm_5(0.02, head_size=8),
    "marin": gdjax.recipes.marin(0.02, 0.005),
    "nanochat": gdjax.recipes.nanochat(200, 32),
    "modded_nanogpt": gdjax.recipes.modded_nanogpt(200),
}


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recipe", PUBLIC)
def test_which_leaf_gets_what_in_the_recipes_of_public_models(recipe: str, name: str):
    params = model(name)
    table = gdjax.explain(PUBLIC[recipe], params)
    heads = {row.path for row in gdjax.roles(params) if row.role == "head"} if recipe == "glm_5" else set()
    matrices = {row.path for row in table if row.group in ("muon", "rest/matrix")}
    assert matrices == {*hidden(name)} | heads
    assert [text for text in table.warnings if not text.startswith("no leaf is in the group")] == []


def test_recipes_are_found_and_mistakes_warn():
    pages = "choose cookbook from_pytorch groups_and_rates hyperball inspect kronecker matrix_methods muon".split()
    assert {recipe.page for recipe in RECIPES.values()} >= {*pages, "metrics_and_states"}
    wrong = [recipe for recipe in ALL.values() if (recipe.page, recipe.source) in WRONG]
    assert len(wrong) == len(WRONG)
    for recipe in wrong:
        tx = recipe.value(recipe.source)
        with pytest.warns(UserWarning, match=r"at the learning rate of the matrices.* something else: .*\(head\)"):
            jax.eval_shape(lambda params, tx=tx: tx.init(params), model("scanned"))


@pytest.mark.parametrize("recipe", [pytest.param(r, id=key) for key, r in RECIPES.items() if r.overrides])
def test_overrides_on_the_model_of_their_page(recipe: Recipe):
    tx, params = recipe.value(recipe.source), of_shapes(OWN[recipe.page])
    jax.eval_shape(tx.init, params)
    walked = Walk(tx, shapes_of("test", params))
    assert any(leaf.is_matrix for leaf in walked.plan.values())
    assert [slip for _, slip in walked.slips if slip.leaves] == []


@pytest.mark.full
@pytest.mark.parametrize("recipe", [pytest.param(r, id=key) for key, r in RECIPES.items() if not r.overrides])
def test_explain_has_nothing_against_a_recipe(recipe: Recipe):
    assert gdjax.explain(recipe.value(recipe.source), model("scanned")).warnings == ()


# For each override of the table in the page on matrix methods, a model and what it makes of it.
OVERRIDDEN: dict[str, tuple[Any, str]] = {
    "the last layer": ({"fc3/kernel": (8, 4), "fc3/bias": (4,)}, "fc3/bias bias, fc3/kernel head"),
    "a matrix for each head": (
        {
            **{f"attn/{name}/kernel": (32, 4, 8) for name in ("query", "key", "value")},
            **{f"attn/{name}/bias": (4, 8) for name in ("query", "key", "value")},
            "attn/out/kernel": (4, 8, 32),
            "attn/out/bias": (32,),
        },
        "attn/key/bias bias, attn/key/kernel matrix 4 x 32 x 8, attn/out/bias bias, attn/out/kernel matrix 4 x 8 x 32, "
        "attn/query/bias bias, attn/query/kernel matrix 4 x 32 x 8, attn/value/bias bias, "
        "attn/value/kernel matrix 4 x 32 x 8",
    ),
    "the same where heads": (
        {"q_proj/kernel": (32, 32), "q_proj/bias": (32,)},
        "q_proj/bias bias, q_proj/kernel matrix 8 x 32 x 4",
    ),
    "fused q, k, v with": (
        {"qkv/kernel": (512, 768), "qkv/bias": (768,)},
        "qkv/bias bias, qkv/kernel matrix 512 x 512 + 512 x 128 + 512 x 128",
    ),
    "fused q, k, v as": ({"qkv/kernel": (32, 96), "qkv/bias": (96,)}, "qkv/bias bias, qkv/kernel matrix 32 x 96"),
    "layers along axis 1": (
        {
            "attn/query/kernel": (32, 3, 4, 8), "attn/out/kernel": (4, 3, 8, 32), "attn/query/bias": (3, 4, 8),
            "mlp/wi_0/kernel": (32, 3, 64), "mlp/wo/kernel": (64, 3, 32), "mlp/wo/bias": (3, 32),
        },
        "attn/out/kernel matrix 3 x 32 x 32, attn/query/bias bias, attn/query/kernel matrix 3 x 32 x 32, "
        "mlp/wi_0/kernel matrix 3 x 32 x 64, mlp/wo/bias bias, mlp/wo/kernel matrix 3 x 64 x 32",
    ),
    "a stack of convolutions": (
        {"conv/kernel": (5, 3, 3, 4, 8), "conv/bias": (5, 8)},
        "conv/bias bias, conv/kernel matrix 5 x 36 x 8",
    ),
}  # fmt: skip


def printed_overrides() -> dict[str, str]:
    text = (ROOT / "docs" / "matrix_methods.md").read_text("utf-8")
    rows = re.findall(r"^\| (.*?) \| `(\{.*?\})` \|$", text, re.MULTILINE)
    return {what: code.replace("\\|", "|") for what, code in rows}


@pytest.mark.full
def test_printed_overrides_leave_biases_alone():
    found = printed_overrides()
    assert len(found) == len(OVERRIDDEN)
    for what, code in found.items():
        shapes, expected = next(x for start, x in OVERRIDDEN.items() if what.startswith(start))
        overrides, params = eval(code, {"Matrix": gdjax.Matrix}), of_shapes(shapes)
        assert table(params, overrides) == expected.replace(", ", "\n"), what
        numbers = gdjax.matrices_by_role(overrides)
        tx = gdjax.muon(0.02, adam_learning_rate=1e-3, muon_weight_dimension_numbers=numbers)
        state = jax.eval_shape(tx.init, params)
        assert jax.eval_shape(tx.update, params, state)[0] == params
