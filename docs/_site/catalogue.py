"""Which public symbol stands on which page of the reference. It needs gdjax alone; `hooks.py` makes the pages."""

import ast
import functools
import importlib
import inspect
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gdjax

TABLES = Path(__file__).resolve().parents[1] / "optimizers.md"
MODULES = (
    "losses", "projections", "prox", "schedules", "transforms", "tree", "contrib", "tree_utils", "second_order",
    "assignment", "perturbations", "microbatching", "plots", "recipes", "testing", "experimental.aggregating",
)  # fmt: skip

# A section of the reference: its folder, title, and a sentence. The order is that of the navigation.
SECTIONS = {
    "optimizers": ("Optimizers", "Each optimizer has a page: its formulas, its arguments, the paper, its parts."),
    "schedules": ("Schedules", "A schedule is a function of the count of updates. Any hyperparameter takes one."),
    "transforms": ("Transforms", "The parts to chain before, behind or around an optimizer."),
    "combine": ("Chains and groups", "How transforms are put together, and what each leaf gets."),
    "training": ("Training", "The loop, gradients in small batches, checks of gradients."),
    "losses": ("Losses", "Losses of regression, classification, ranking, segmentation and sequences."),
    "projections": ("Projections", "The nearest point of a set, for parameters with constraints."),
    "prox": ("Proximal maps", "Steps of penalties: for sparse, grouped or low-rank parameters."),
    "tree": ("Trees", "Arithmetic, norms, states and random numbers of pytrees."),
    "linesearch": ("Line searches", "Step sizes by evaluating the loss."),
    "linalg": ("Linear algebra", "Roots, powers and derivatives of second order."),
    "rules": ("Your own method", "What a rule, a wrapper or a matrix method of your own is made with."),
    "types": ("Types", "The contract of a transform, and types for annotations."),
    "more": ("More", "Optax, assignment, perturbations, aggregation."),
}

# Where the symbols of a module stand, if not on a page named after it in the section named after its folder.
PLACES = {
    "core.base": "types/transforms", "core.types": "types/annotations", "core.parts": "more/optax",
    "tree.updates": "training/updates", "codes.rounding": "rules/codecs", "lift.leafwise": "rules/leafwise",
    "lift.slots": "rules/slots", "lift.wrapper": "rules/wrapper", "linalg.stacks": "rules/stacks",
    "linalg.bases": "linalg/roots", "numerics": "rules/numbers", "numerics.bounds": "rules/numbers",
    "numerics.elementwise": "rules/numbers", "numerics.norms": "tree/norms", "second_order": "linalg/second_order",
    "assignment": "more/assignment", "perturbations": "more/perturbations", "microbatching": "training/microbatching",
    "tree_utils": "tree/tree_utils", "testing": "training/testing", "experimental.aggregators": "more/aggregating",
    "experimental.variance": "more/aggregating", "lift.rule": "rules/leafwise",
    "tree.accumulators": "training/microbatching", "leaf_roles.plan": "combine/roles",
    "transfer_laws.transfer": "combine/transfer", "transfer_laws.batch_and_length": "combine/batch_and_length",
    "matrices.matrixwise": "rules/matrixwise", "matrices.in_turns": "rules/matrixwise",
    "matrices.slots": "rules/matrixwise", "matrices.together": "rules/stacks", "core.paths": "combine/paths",
    "linalg.matrices": "combine/roles", "inspection.roles": "combine/roles", "recipes": "combine/recipes",
    "solving.solve": "training/solve", "solving.implicit": "training/solve",
    "solving.lagrangian": "training/constraints", "solving.solve_constrained": "training/constraints",
}  # fmt: skip

TITLES = {
    "rules/numbers": "Numbers in a rule", "rules/leafwise": "Rules", "rules/wrapper": "Wrappers",
    "more/optax": "Optax", "rules/slots": "Slots of a state", "rules/stacks": "Stacks of matrices",
    "rules/matrixwise": "Rules of one matrix",
    "types/annotations": "For annotations", "combine/hyperparams": "Hyperparameters in the state",
    "training/loop": "minimize", "training/solve": "solve", "training/constraints": "Constraints",
    "training/sharded_step": "Steps on a mesh",
    "training/release": "Gradient release",
    "combine/roles": "Leaves by role", "combine/conditional": "On a condition",
    "combine/paths": "Leaves by path", "tree/states": "States", "combine/sharding": "State over devices",
    "losses/ctc": "CTC", "losses/classification": "Classification", "losses/ranking": "Ranking and embeddings",
    "more/aggregating": "Aggregation of gradients",
    "training/updates": "Applying updates", "transforms/trust_ratio": "Trust ratios and norms",
    "transforms/clipping": "Clipping and centring", "transforms/decay": "Weight decay",
    "transforms/scaling": "Factors and functions", "transforms/guards": "Guards and conditions",
    "transforms/plateau": "Plateaus and distances", "transforms/layouts": "Layouts and memories",
    "transforms/averaging": "Averages", "transforms/noise": "Noise and privacy",
    "combine/chain": "Chains", "transforms/momentum": "Momentum and caution",
    "tree/tree_utils": "Older names", "training/gradients": "Checks of gradients",
    "prox/separable": "Sums over numbers", "prox/groups": "Norms of groups and matrices",
    "prox/variation": "Total variation", "prox/sets": "Sets",
    "projections/boxes": "Boxes, lines, planes, half-spaces",
    "projections/polyhedra": "Polyhedra", "projections/transport": "Transport plans",
    "projections/balls": "Balls, spheres, the simplex", "linesearch/line": "Values from the state",
    "combine/recipes": "Recipes of public models",
    "transforms/qk_clip": "QK-Clip", "types/transforms": "Transforms", "linalg/roots": "Roots and NNLS",
}  # fmt: skip


@dataclass
class Symbol:
    """A public object, under the name that its page shows."""

    name: str  # after `gdjax.`
    obj: Any
    module: str  # that defines it, after `gdjax.`
    aliases: list[str] = field(default_factory=list)  # its other public names

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def summary(self) -> str:
        written = inspect.getdoc(self.obj) if callable(self.obj) else None
        return " ".join((written or "").partition("\n\n")[0].split())

    @property
    def is_state(self) -> bool:
        """A NamedTuple, whose source with its comments says more than a table."""
        return inspect.isclass(self.obj) and self.obj.__bases__ == (tuple,)

    @property
    def is_value(self) -> bool:
        """An alias of types, or an object: shown as its line of source."""
        own = getattr(self.obj, "__module__", "").startswith("gdjax")  # in Python 3.11 `Any` is a class
        return not own or not (inspect.isclass(self.obj) or inspect.isfunction(self.obj))


@functools.cache
def _definitions(module: str) -> dict[str, tuple[str, str] | ast.stmt]:
    """Where a module has its names from: another module and the name there, or its own statement."""
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text("utf-8"))
    found: dict[str, tuple[str, str] | ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gdjax"):
            listed = importlib.import_module(str(node.module)).__all__ if node.names[0].name == "*" else []
            found |= {a.asname or a.name: (str(node.module), a.name) for a in node.names}
            found |= {name: (str(node.module), name) for name in listed}
        elif isinstance(node, ast.Assign):
            names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            found |= dict.fromkeys(names, node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
    return found


def origin(module: str, name: str) -> tuple[str, str]:
    """The module that defines `name`, and its name there."""
    where = _definitions(module).get(name)
    if isinstance(where, tuple):
        importlib.import_module(where[0])
        return origin(*where)
    return module, name


def source_of(symbol: Symbol) -> str:
    """The statement that defines a class or a value, with its comment."""
    where = origin(f"gdjax.{symbol.name}".rpartition(".")[0], symbol.short)
    node = _definitions(where[0])[where[1]]
    assert isinstance(node, ast.stmt)
    lines = Path(str(sys.modules[where[0]].__file__)).read_text("utf-8").splitlines()
    return "\n".join(lines[node.lineno - 1 : node.end_lineno])


def public_names() -> list[str]:
    """Every public name after `gdjax.`, those at the top first."""
    names = [name for name in gdjax.__all__ if not inspect.ismodule(getattr(gdjax, name))]
    for short in MODULES:
        module = importlib.import_module(f"gdjax.{short}")
        own = [k for k, v in vars(module).items() if k[0] != "_" and getattr(v, "__module__", "") == module.__name__]
        listed = getattr(module, "__all__", sorted(own))
        names += [f"{short}.{name}" for name in listed if not inspect.ismodule(getattr(module, name))]
    return names


@functools.cache
def symbols() -> tuple[Symbol, ...]:
    """Every public symbol once."""
    found: dict[tuple[str, str], Symbol] = {}
    for name in public_names():
        holder, _, short = f"gdjax.{name}".rpartition(".")
        obj = getattr(sys.modules[holder], short)
        is_defined = (inspect.isfunction(obj) or inspect.isclass(obj)) and obj.__module__.startswith("gdjax")
        key = (obj.__module__, obj.__qualname__) if is_defined else origin(holder, short)
        if key not in found:
            found[key] = Symbol(name, obj, key[0].removeprefix("gdjax."))
            continue
        seen = found[key]
        if is_defined and short == obj.__name__ != seen.short:  # it is shown under the name that it has in its file
            seen.name, name = name, seen.name
        seen.aliases.append(name)
    return tuple(found.values())


def is_optimizer(symbol: Symbol) -> bool:
    """A function of `gdjax/optimizers` that is used by itself or around another optimizer, and no part of one."""
    if not (symbol.module.startswith("optimizers.") and inspect.isfunction(symbol.obj)):
        return False
    return not symbol.short.startswith(("scale_by_", "nesterov_point", "schedule_free_eval"))


def _squashed(name: str) -> str:
    return name.replace("_", "").lower()


def _page_of(symbol: Symbol, optimizers: list[Symbol]) -> str:
    folder, _, module = symbol.module.partition(".")
    if is_optimizer(symbol) or (folder == "schedules" and inspect.isfunction(symbol.obj)):
        return f"{folder}/{symbol.short}"
    if folder == "optimizers":
        siblings = [s for s in optimizers if s.module == symbol.module]
        own = [s for s in siblings if _squashed(s.short) in _squashed(symbol.short)]
        return "optimizers/" + (max(own, key=lambda s: len(s.short)) if own else siblings[0]).short
    if symbol.module in PLACES:
        return PLACES[symbol.module]
    return f"{folder}/{module}" if folder in SECTIONS else f"more/{module or folder}"


@functools.cache
def pages() -> dict[str, list[Symbol]]:
    """The symbols of each page, which is `section/name`, in the order of the sections and of the definitions."""
    optimizers = sorted((s for s in symbols() if is_optimizer(s)), key=_line)
    found: dict[str, list[Symbol]] = {}
    for symbol in symbols():
        found.setdefault(_page_of(symbol, optimizers), []).append(symbol)
    for page, held in found.items():
        # The symbol that the page is named after, functions, then classes and values; as they are defined.
        held.sort(key=lambda s: (s.short != page.rpartition("/")[2], _kind(s), s.module, _line(s)))
    order = list(SECTIONS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0].partition("/")[0]), item[0])))


@functools.cache
def groups() -> dict[str, list[str]]:
    """The names of each group of optimizers: a heading of `docs/optimizers.md`, and the names in its table."""
    found = {}
    for part in TABLES.read_text("utf-8").split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        first_cells = re.findall(r"^\|([^|]*`[^|]*)\|", text, re.MULTILINE)
        found[title] = [name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)]
    return found


def _kind(symbol: Symbol) -> int:
    return 3 if symbol.is_value else 1 + symbol.is_state if inspect.isclass(symbol.obj) else 0


def _line(symbol: Symbol) -> int:
    holder = f"gdjax.{symbol.name}".rpartition(".")[0]
    module, name = origin(holder, symbol.short)
    node = _definitions(module).get(name)
    return node.lineno if isinstance(node, ast.stmt) else 0


def arguments(page: str) -> set[str]:
    """The names of the arguments of what a page shows."""
    shown = [s.obj for s in pages()[page] if not (s.is_value or s.is_state)]
    return {name for obj in shown for name in inspect.signature(obj).parameters}


def title_of(page: str) -> str:
    """The name of an optimizer or schedule as it is; other pages by their subject."""
    section, _, name = page.partition("/")
    if section in ("optimizers", "schedules"):
        return name
    return TITLES.get(page, name.replace("_", " ").capitalize())


@functools.cache
def page_of_name() -> dict[str, tuple[str, Symbol]]:
    """The page and the symbol of every public name."""
    return {name: (page, s) for page, held in pages().items() for s in held for name in [s.name, *s.aliases]}
