"""The plain notation of formulas in docstrings, read into nodes; `maths.py` writes them as LaTeX."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi psi omega Delta Sigma"
)
GREEK = {name: f"\\{name}" for name in LETTERS.split()} | {"eps": r"\epsilon", "lamb": r"\lambda"}
# These take what follows; the others are functions where a parenthesis follows.
OPERATORS = {name: f"\\{name}" for name in ("sum", "prod", "max", "min", "log", "ln", "exp", "cos", "sin", "tanh")}
OPERATORS["grad"] = r"\nabla"
NAMES = {"value", "loss", "init", "adam"}
WORDS = set("and but else for until where with as at by if in is of on or so to up".split())
SIGNS = {
    "<=": r"\le", ">=": r"\ge", "!=": r"\ne", "<-": r"\leftarrow", "->": r"\rightarrow", "...": r"\dots",
    "||": r"\parallel", "*": r"\cdot", "/": "/", "+": "+", "-": "-", "=": "=", "<": "<", ">": ">",
    ",": ",", ";": ";", ":": ":", ".": ".",
}  # fmt: skip
PUNCTUATION = {",", ";", ":", "."}
CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">", "|": "|", "||": "||"}
TOKEN = re.compile(
    r"""(?P<quoted>"[^"`]*"|`[^`"]*`)|(?P<word>[a-z]-th\b|[a-z]+'s\b)|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)
    |(?P<name>[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*)|(?P<sign>\.\.\.|<=|>=|!=|<-|->|\|\||[-+*/=<>|,;:.^_'(){}\[\]])""",
    re.VERBOSE,
)


class NoFormula(ValueError):
    """The text is not in the notation."""


@dataclass
class Token:
    kind: str
    text: str
    before: bool  # whether a blank stands before it
    after: bool


@dataclass
class Node:
    """A factor, a sign or a run of words."""

    latex: str = ""
    kind: str = "symbol"  # name, number, words, sign, group, operator
    subs: "list[Script]" = field(default_factory=list)
    primes: str = ""
    power: "Script" = ""
    inside: "list[Node] | None" = None  # of a group
    call: "Node | None" = None  # the group that it is applied to, or what an operator takes
    hat: bool = False

    @property
    def is_factor(self) -> bool:
        return self.kind not in ("sign", "words")

    @property
    def is_bare(self) -> bool:
        """A group in parentheses that a fraction does without."""
        return self.kind == "group" and self.latex == "(" and not (self.subs or self.primes or self.power)


Script = str | list[Node]  # an index or a power; a string is LaTeX


def tokens(text: str) -> list[Token]:
    found, at = [], 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        match = TOKEN.match(text, at)
        if not match:
            raise NoFormula(text[at:])
        end = match.end()
        before, after = text[at - 1 : at] in ("", " "), text[end : end + 1] in ("", " ")
        found.append(Token(str(match.lastgroup), match[0], before, after))
        at = end
    return found


def _escaped(text: str) -> str:
    return text.replace("_", r"\_")


class Parser:
    """One segment of a line."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        self.tokens, self.at, self.names = tokens(text), 0, names

    def peek(self, ahead: int = 0) -> Token:
        at = self.at + ahead
        return self.tokens[at] if 0 <= at < len(self.tokens) else Token("end", "", True, True)

    def next(self) -> Token:
        self.at += 1
        return self.peek(-1)

    def opens(self, token: Token) -> bool:
        if token.text in ("|", "||"):
            return not token.after
        return token.text in ("(", "[", "{") or (token.text == "<" and not token.after)

    def sequence(self, closing: str = "") -> list[Node]:
        nodes: list[Node] = []
        while True:
            token = self.peek()
            if token.kind == "end":
                if closing:
                    raise NoFormula(f"no {closing}")
                return nodes
            # A bar after a blank opens; `>` after a blank compares.
            if closing and token.text == closing and not (token.before and closing in "|>||"):
                self.next()
                return nodes
            nodes.append(self.node())

    def is_word(self, ahead: int = 0) -> bool:
        token = self.peek(ahead)
        if token.kind == "word":
            return True
        if token.kind != "name" or token.text in self.names or token.text in NAMES:
            return False
        if token.text in WORDS:
            return True
        if token.text == "sum" and self.peek(ahead + 1).text in WORDS:
            return True
        if token.text == "a":
            beside = [self.peek(ahead + k) for k in (-1, 1)]
            return all(re.fullmatch("[a-z]{2,}", t.text) and t.text not in self.names for t in beside)
        if not re.fullmatch(r"[a-z]{3,}|[A-Z][a-z]{2,}", token.text) or token.text in GREEK or token.text in OPERATORS:
            return False
        before, after = self.peek(ahead - 1), self.peek(ahead + 1)
        applied = after.text in ("(", "[", "_", "'") and not after.before
        return not (applied or after.text in ("=", "*", "/", "+", "-", "^") or before.text in ("*", "/", "^"))

    def node(self) -> Node:
        if self.is_word():
            words = [self.next().text]
            while self.is_word():
                words.append(self.next().text)
            return Node(" ".join(words), "words")
        token = self.peek()
        if token.text in SIGNS and not self.opens(token):
            self.next()
            return Node(SIGNS[token.text], "sign")
        if token.text in ("-", "+"):
            self.next()
            return Node(token.text, "sign")
        return self.factor()

    def group(self) -> Node:
        token = self.next()
        return Node(token.text, "group", inside=self.sequence(CLOSING[token.text]))

    def factor(self) -> Node:
        token = self.peek()
        if self.opens(token):
            node = self.group()
            self.behind(node)
            return node
        if token.kind == "quoted":
            self.next()
            shown = token.text if token.text[0] == '"' else token.text[1:-1]
            return Node(r"\texttt{" + _escaped(shown) + "}", "name")
        if token.kind == "number":
            self.next()
            mantissa, _, exponent = token.text.partition("e")
            scale = f"10^{{{exponent}}}"
            node = Node(scale if exponent and mantissa == "1" else mantissa, "number")
            if exponent and mantissa != "1":
                node.latex += rf" \cdot {scale}"
            self.behind(node)
            return node
        if token.kind != "name":
            raise NoFormula(token.text)
        return self.name()

    def name(self) -> Node:
        token = self.next()
        head, *parts = token.text.split("_")
        letter = head.rstrip("0123456789")
        digits = head.removeprefix(letter)
        node = Node()
        if head == "sqrt" and not parts and self.peek().text == "(" and not self.peek().before:
            node = Node(r"\sqrt", "group", inside=self.group().inside)
        elif head in OPERATORS and all(len(x) <= 2 for x in parts):
            node = Node(OPERATORS[head], "operator")
        elif head in GREEK or len(letter) == 1 or letter in GREEK:
            node.latex = GREEK.get(head) or GREEK.get(letter) or letter
            node.subs += [digits] if digits and head not in GREEK else []
        elif len(parts) == 1 and (len(parts[0]) == 1) and token.text not in self.names:
            node = Node(rf"\mathrm{{{head}}}", "name")
        else:
            node, parts = Node(rf"\mathrm{{{_escaped(token.text)}}}", "name"), []
        if parts[:1] == ["hat"]:
            node.hat, parts = True, parts[1:]
        if parts:
            # `t`, `ij` and `0` are indices; the rest is the rest of a name.
            rest = _escaped("_".join(parts))
            index = len(parts) == 1 and re.fullmatch(r"[A-Za-z]{1,2}|\d+|inf", parts[0])
            own = {"inf": r"\infty", "max": r"\max", "min": r"\min"} | GREEK
            if len(parts) == 2 and re.fullmatch("[a-z]", parts[1]):  # nu_max_t
                node.subs += [own.get(parts[0], rf"\mathrm{{{parts[0]}}}"), parts[1]]
            else:
                node.subs.append(own.get(rest) or (rest if index else rf"\mathrm{{{rest}}}"))
        self.behind(node)
        if node.kind == "operator" and node.call is None and self.takes():
            node.call = self.factor()
        return node

    def takes(self) -> bool:
        token = self.peek()
        if token.kind in ("end", "quoted", "word") or self.is_word():
            return False
        return token.kind != "sign" or self.opens(token)

    def behind(self, node: Node) -> None:
        """What stands close behind a factor: an index, primes, a power, arguments."""
        while not self.peek().before:
            token = self.peek()
            if token.text == "_":
                self.next()
                node.subs.append(self.script())
            elif token.text == "'":
                self.next()
                node.primes += "'"
            elif token.text == "^" and not node.power:
                self.next()
                node.power = self.script()
            elif token.text == "*" and token.after and not node.power:  # the adjoint
                self.next()
                node.power = "*"
            elif token.text in ("(", "[") and node.call is None and node.latex != r"\sqrt":
                node.call = self.group()
                if not node.power and self.peek().text == "^":
                    self.behind(node.call)
                return
            else:
                return

    def script(self) -> "list[Node]":
        token = self.peek()
        if token.before:
            raise NoFormula("a blank before an index or a power")
        if token.text in ("{", "("):
            return self.group().inside or []
        if token.text == "-":
            self.next()
            return [Node("-", "sign"), *self.script()]
        if token.kind == "number":
            return [Node(self.next().text, "number")]
        if token.kind != "name":
            raise NoFormula(token.text)
        if token.text == "T":
            self.next()
            return [Node(r"\top ")]
        # A name without what is close behind it, which belongs to the whole.
        whole, self.tokens = self.tokens, self.tokens[: self.at + 1]
        node = self.name()
        self.tokens = whole
        return [node]
