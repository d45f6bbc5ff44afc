"""The formulas of docstrings, plain text, as LaTeX; `mathml.py` sets them. What cannot be read stays text."""

import re
from collections.abc import Collection, Iterator

from notation import PUNCTUATION, Node, NoFormula, Parser, Script

FENCES = {
    "(": (r"\left(", r"\right)"), "[": (r"\left[", r"\right]"), "{": (r"\left\{", r"\right\}"),
    "<": (r"\left\langle ", r"\right\rangle "), "|": (r"\left|", r"\right|"), "||": (r"\left\|", r"\right\|"),
}  # fmt: skip
CODE = re.compile(r"\w=[\w\"]|#|[a-z]\.[a-z]|^\s*(?:import|from|with|for|print)\b.*[(:]", re.MULTILINE)
GAP = re.compile(r"  +")


def show(node: Node, depth: int) -> str:
    """A node as LaTeX. A fraction stands at depth 0; in another, a root, an index or a power there are slashes."""
    if node.kind == "words":
        return rf"\text{{{node.latex}}}"
    if node.inside is not None:
        is_root = node.latex == r"\sqrt"
        inside = render(node.inside, max(depth, is_root))  # without a font of maths a root is no higher than a letter
        left, right = (r"\sqrt{", "}") if is_root else FENCES[node.latex]
        text = f"{left}{inside}{right}"
    else:
        text = rf"\hat{{{node.latex}}}" if node.hat else node.latex
    if node.subs:
        text += f"_{{{','.join(map(_script, node.subs))}}}"
    if node.primes or node.power:
        text += "^{" + r"\prime " * len(node.primes) + _script(node.power) + "}"
    if node.call is not None:
        close = node.call.kind == "group" and node.call.latex in ("(", "[")
        space = "" if close else " " if node.latex in (r"\sum", r"\prod") else r"\,"
        text += space + show(node.call, depth)
    return text


def _script(script: Script) -> str:
    return script if isinstance(script, str) else render(script, depth=2)


def _fraction(nodes: list[Node], at: int) -> bool:
    """Whether the slash at `at` stands between two factors, and in no chain of slashes."""

    def is_slash(k: int) -> bool:
        return 0 <= k < len(nodes) and nodes[k].kind == "sign" and nodes[k].latex == "/"

    sides = 0 < at < len(nodes) - 1 and nodes[at - 1].is_factor and nodes[at + 1].is_factor
    return is_slash(at) and sides and not is_slash(at - 2) and not is_slash(at + 2)


def _is_product(node: Node) -> bool:
    """Whether it is a group of several factors: then all that stands before the slash is above the line."""
    inside = node.inside or []
    return (node.is_bare or node.latex == "|") and len(inside) > 1 and all(n.is_factor for n in inside)


def render(nodes: list[Node], depth: int = 0) -> str:
    pieces: list[tuple[str, Node]] = []
    at = 0
    while at < len(nodes):
        node = nodes[at]
        if depth == 0 and _fraction(nodes, at + 1):
            below, above = nodes[at + 2], [node]
            if _is_product(below):  # a product over a product
                while pieces and pieces[-1][1].is_factor:
                    above.insert(0, pieces.pop()[1])
            if len(above) == 1 and node.is_bare:
                above = node.inside or []
            under = below.inside or [] if below.is_bare else [below]
            text = rf"\frac{{{render(above, 1)}}}{{{render(under, 1)}}}"
            pieces.append((text, Node(kind="fraction")))
            at += 3
            continue
        pieces.append((show(node, depth), node))
        at += 1
    text = "".join(_joined(pieces))
    return text.replace(r",\ ", ",") if depth == 2 else text


def _joined(pieces: list[tuple[str, Node]]) -> Iterator[str]:
    sign = False  # whether a minus stands before that subtracts from nothing
    for k, (text, node) in enumerate(pieces):
        if sign:
            yield f"{text}}}"
            sign = False
            continue
        follows = k + 1 < len(pieces) and pieces[k + 1][1].is_factor
        sign = node.kind == "sign" and node.latex == "-" and follows and (not k or not pieces[k - 1][1].is_factor)
        text = "{-" if sign else text
        if k:
            before = pieces[k - 1][1]
            if node.kind == "sign" and node.latex in PUNCTUATION:
                yield ""
            elif "words" in (node.kind, before.kind):
                yield r"\ "
            elif node.is_factor and before.is_factor:
                roman = {"name", "operator", "fraction"} & {node.kind, before.kind}
                calls = before.call is not None or before.inside is not None or node.latex == r"\sqrt"
                yield r"\," if roman or calls else " "
            elif before.kind == "sign" and before.latex in PUNCTUATION:
                yield r"\ "
            else:
                yield " "
        yield text


def segments(line: str) -> list[tuple[int, str]]:
    """What is separated by two blanks or more, with the column where it starts."""
    found, start = [], 0
    for gap in [*GAP.finditer(line), None]:
        end = gap.start() if gap else len(line)
        if line[start:end].strip():
            found.append((start, line[start:end].strip()))
        start = gap.end() if gap else end
    return found


def to_latex(line: str, names: Collection[str] = ()) -> str:
    """One line of formulas as LaTeX; `NoFormula` if it is something else."""
    return r" \quad ".join(_segment(text, names) for _, text in segments(line))


def _segment(text: str, names: Collection[str]) -> str:
    if text.startswith("d/dx "):
        return rf"\frac{{d}}{{dx}}\,{_segment(text[5:], names)}"
    parser = Parser(text, names)
    if '"' in text and len(parser.tokens) > 1:
        raise NoFormula("a quotation in a formula")
    nodes = parser.sequence()
    return render(nodes)


def _words(text: str, names: Collection[str]) -> int:
    parser = Parser(text, names)
    return sum(len(token.text) + 1 for k, token in enumerate(parser.tokens) if parser.is_word(k))


Row = list[tuple[int, int, str, str]]  # of each cell: its column and how many it spans, LaTeX, plain text


def rows(block: str, names: Collection[str] = ()) -> list[Row] | None:
    """The lines of a block in cells that stand below each other as in the text; None if the block stays text."""
    lines = [segments(line) for line in block.splitlines()]
    texts = [text for line in lines for _, text in line]
    try:
        if not texts or CODE.search(block) or sum(_words(t, names) for t in texts) > 0.7 * sum(map(len, texts)):
            return None
        starts = [start for line in lines for start, _ in line]
        stops = sorted({0} | {s for s in starts if starts.count(s) > 1})
        found: list[Row] = []
        for line in lines:
            cells: dict[int, list[str]] = {}
            for start, text in line:
                column = max(k for k, stop in enumerate(stops) if stop <= start)
                cells.setdefault(column, []).append(text)
            ends = dict(zip(cells, [*list(cells)[1:], len(stops)], strict=False))  # in the order of the line
            plain = {k: "  ".join(parts) for k, parts in cells.items()}
            found.append([(k, ends[k] - k, to_latex(text, names), text) for k, text in plain.items()])
    except NoFormula:
        return None
    return found
