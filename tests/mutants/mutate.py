"""Small wrong versions of a module, one expression changed in each."""

import ast
import copy
import gc
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

SWAPS = ("b1 b2", "b2 b3", "beta1 beta2", "eps eps_root", "mu nu", "weight_decay learning_rate", "decay momentum")
PARTNERS = [pair for names in SWAPS for pair in (names.split(), names.split()[::-1])]
OPERATORS = {
    ast.Add: (ast.Sub, "sign"), ast.Sub: (ast.Add, "sign"), ast.Div: (ast.Mult, "factor"),
    ast.BitAnd: (ast.BitOr, "condition"), ast.BitOr: (ast.BitAnd, "condition"),
    ast.And: (ast.Or, "condition"), ast.Or: (ast.And, "condition"),
}  # fmt: skip
OPPOSITE = {ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
NEXT = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
# Functions of which the first argument remains, and those that another takes the place of.
DROPPED = {
    "conj": "conj", "real": "conj", "abs": "conj", "abs_sq": "factor", "sqrt": "factor", "square": "factor",
    "debias": "step", "sign": "sign", "divide": "factor", "clip": "condition", "cumsum": "factor",
}  # fmt: skip
REPLACED = {"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max", "sum": "mean", "floor": "ceil"}
# Not part of a formula, or checked as a whole elsewhere.
SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "args", "slice", "type_params"}
SKIPPED_KEYWORDS = {"axis", "keepdims", "dtype", "initial", "in_axes", "precision"}
STATEMENTS = (ast.stmt, ast.ExceptHandler)


class Mutant(NamedTuple):
    module: str  # "optimizers/adam"
    function: str
    kind: str
    line: int
    text: str  # the statement as it is changed
    site: int  # which of the changes that `_sites` finds

    @property
    def name(self) -> str:
        return f"{self.module} {self.function}: {self.text}"


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a module. Two changes that give the same statement are one mutant."""
    seen = set()
    for site, (function, put, statement, node, kind, new) in enumerate(_sites(ast.parse(source))):
        before = _text(statement)
        put(new)
        mutant = Mutant(module, function, kind, statement.lineno, _text(statement), site)
        put(node)
        if mutant.text != before and mutant.name not in seen:
            seen.add(mutant.name)
            yield mutant


def changed(source: str, site: int) -> ast.Module:
    """The source with one change."""
    tree = ast.parse(source)
    _, put, _, node, _, new = next(itertools.islice(_sites(tree), site, None))
    put(ast.copy_location(new, node))
    return ast.fix_missing_locations(tree)


def _text(statement: ast.stmt) -> str:
    """A statement, the header alone of a compound one, in one line."""
    bare = copy.copy(statement)
    for block in ("body", "orelse", "handlers", "finalbody"):
        if getattr(bare, block, None):
            setattr(bare, block, [ast.Pass()] if block == "body" else [])
    return " ".join(ast.unparse(bare).split()).removesuffix(" pass")


def _sites(tree: ast.Module) -> Iterator[tuple[str, Callable[[Any], None], Any, Any, str, Any]]:
    """The function, a setter, the statement, the node, the kind of change and what takes the node's place."""
    for top in tree.body:
        functions = [top] if isinstance(top, ast.FunctionDef | ast.ClassDef) else []
        if isinstance(top, ast.Assign):
            functions = [node for node in ast.walk(top) if isinstance(node, ast.Lambda)]
        for function in functions:
            scope = _Scope(function)
            name = getattr(function, "name", "lambda")
            for put, statement, node in _walk(function, top):
                for kind, new in _changes(node, scope):
                    yield name, put, statement, node, kind, new


def _walk(node: Any, statement: Any) -> Iterator[tuple[Callable[[Any], None], Any, Any]]:
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and all(isinstance(s, ast.Raise) for s in node.body) and not node.orelse:
        return  # errors have tests of their own
    if _called(node) == "astype":
        yield from _walk(node.func, statement)
        return
    if isinstance(node, ast.keyword) and node.arg in SKIPPED_KEYWORDS:
        return
    statement = node if isinstance(node, STATEMENTS) else statement
    for field, value in ast.iter_fields(node):
        if field in SKIPPED_FIELDS and not (field == "args" and isinstance(node, ast.Call)):
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                if isinstance(child, ast.expr):
                    into = (value, i) if isinstance(value, list) else (node, field)
                    yield lambda new, into=into: _put(into, new), statement, child
                yield from _walk(child, statement)


def _put(into: tuple[Any, Any], new: Any) -> None:
    holder, key = into
    if isinstance(holder, list):
        holder[key] = new
    else:
        setattr(holder, key, new)


class _Scope:
    """The names that a function knows, and the fields of `s`, its state, that it reads."""

    def __init__(self, function: ast.AST):
        nodes = list(ast.walk(function))
        stores = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        self.assigned = {n.id: n.lineno for n in reversed(stores)}  # and where first
        self.names = {*self.assigned} | {n.arg for n in nodes if isinstance(n, ast.arg)}
        self.read = {n.attr for n in nodes if isinstance(n, ast.Attribute) and _is_name(n.value, "s")}


def _is_name(node: Any, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _called(node: Any) -> str:
    f = node.func if isinstance(node, ast.Call) else None
    return f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""


def _like(node: Any, **changes: Any) -> Any:
    return type(node)(**{**dict(ast.iter_fields(node)), **changes})


def _changes(node: ast.expr, scope: _Scope) -> Iterator[tuple[str, ast.expr]]:
    one, load = ast.Constant(1), ast.Load()
    if isinstance(getattr(node, "ctx", load), ast.Load) and isinstance(node, ast.Name):
        yield from (("swap", ast.Name(b, load)) for a, b in PARTNERS if a == node.id and {a, b} <= scope.names)
        if node.id in ("t", "count"):
            yield from (("step", ast.BinOp(node, op, one)) for op in (ast.Add(), ast.Sub()))
        if node.id in scope.read.intersection(scope.assigned):
            yield "old", ast.Attribute(ast.Name("s", load), node.id, load)
    elif (
        isinstance(node, ast.Attribute)
        and _is_name(node.value, "s")
        and scope.assigned.get(node.attr, 1e9) < node.lineno
    ):
        yield "old", ast.Name(node.attr, load)
    elif isinstance(node, ast.Attribute) and node.attr in ("real", "T") and isinstance(node.ctx, ast.Load):
        yield "conj", node.value
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "constant", ast.Constant(node.value + 1 if isinstance(node.value, int) else 2 * node.value or 1.0)
    elif isinstance(node, ast.BinOp):
        yield from _of_operator(node)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield ("sign" if isinstance(node.op, ast.USub) else "condition"), node.operand
    elif isinstance(node, ast.BoolOp):
        yield "condition", _like(node, op=OPERATORS[type(node.op)][0]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
        yield "condition", _like(node, ops=[OPPOSITE[type(node.ops[0])](), *node.ops[1:]])
        counted = [x for x in (node.left, node.comparators[0]) if isinstance(x, ast.Constant) or _is_name(x, "t")]
        if counted and type(node.ops[0]) in NEXT:
            yield "step", _like(node, ops=[NEXT[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.IfExp):
        yield "condition", _like(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Call):
        yield from _of_call(node)


def _of_operator(node: ast.BinOp) -> Iterator[tuple[str, ast.expr]]:
    left, right = node.left, node.right
    if type(node.op) in OPERATORS:
        op, kind = OPERATORS[type(node.op)]
        yield kind, _like(node, op=op())
    if isinstance(node.op, ast.Add):
        yield from (("eps" if _is_eps(right) else "term", side) for side in (left, right))
        if _called(left) == "sqrt" and _is_eps(right):
            yield "eps", _like(left, args=[ast.BinOp(left.args[0], ast.Add(), right)])
    if isinstance(node.op, ast.Sub):
        yield "term", right if isinstance(left, ast.Constant) else left
    if isinstance(node.op, ast.Mult | ast.Pow):
        yield "factor", right if isinstance(node.op, ast.Mult) else left


def _is_eps(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id.startswith("eps")


def _of_call(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    name, args = _called(node), node.args
    if name in DROPPED and args:
        yield DROPPED[name], args[0]
    if name in REPLACED and args:
        f: Any = node.func
        kind = "eps" if any(map(_is_eps, args)) else "extreme"
        yield kind, _like(node, func=_like(f, **{"attr" if hasattr(f, "attr") else "id": REPLACED[name]}))
    if name == "abs_sq":
        yield "conj", ast.BinOp(args[0], ast.Mult(), args[0])
    if name == "where" and len(args) == 3:
        yield "condition", _like(node, args=[args[0], args[2], args[1]])
    if name == "sqrt" and args and isinstance(args[0], ast.BinOp) and _is_eps(args[0].right):
        yield "eps", ast.BinOp(_like(node, args=[args[0].left]), ast.Add(), args[0].right)
    if name == "chain":
        yield from (("chain", _like(node, args=args[:i] + args[i + 1 :])) for i in range(len(args)))


def functions(folder: str) -> dict[str, list[types.FunctionType]]:
    """The functions in memory by the file that defines them, for those files in `folder`."""
    found: dict[str, list[types.FunctionType]] = {}
    for f in gc.get_objects():
        if isinstance(f, types.FunctionType) and f.__code__.co_filename.startswith(folder):
            found.setdefault(f.__code__.co_filename, []).append(f)
    return found


def install(tree: ast.Module, path: str, those: list[types.FunctionType]) -> None:
    """Gives `those` functions, made by the module at `path`, the code that `tree` has for them."""
    codes, todo = {}, [compile(tree, path, "exec")]
    while todo:
        code = todo.pop()
        codes[code.co_qualname, code.co_firstlineno] = code
        todo += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    for f in those:
        f.__code__ = codes[f.__code__.co_qualname, f.__code__.co_firstlineno]
