"""The formulas of docstrings as the site sets them: plain text to LaTeX, with nothing lost."""

import ast
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).resolve().parents[2] / "docs" / "_site"


def load(name: str) -> Any:
    if name in sys.modules:  # `pages/test_site.py` has loaded it
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, SITE / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notation, maths, catalogue = map(load, ("notation", "maths", "catalogue"))  # `maths` imports the first

LINES = {
    "x_{t+1} = x_t - lr sign(c_t)": r"x_{t + 1} = x_{t} - \mathrm{lr}\,\mathrm{sign}\left(c_{t}\right)",
    "mu_t = b1 mu_{t-1} + (1 - b1) g_t": r"\mu_{t} = b_{1} \mu_{t - 1} + \left(1 - b_{1}\right)\,g_{t}",
    "mu_hat_t = mu_t / (1 - b1^t)": r"\hat{\mu}_{t} = \frac{\mu_{t}}{1 - b_{1}^{t}}",
    "m1_hat_t,    b2_t": r"\hat{m}_{1,t}, \quad b_{2,t}",
    "sqrt(nu_hat_t + eps_root)": r"\sqrt{\hat{\nu}_{t} + \epsilon_{\mathrm{root}}}",
    "u / max(1, a / b)": r"\frac{u}{\max\left(1,\ a / b\right)}",
    "|g_t|^2 + ||x|| + |s_{t+1}|_1": r"\left|g_{t}\right|^{2} + \left\|x\right\| + \left|s_{t + 1}\right|_{1}",
    "<g, s / d> < 0 <= x": r"\left\langle g,\ \frac{s}{d}\right\rangle  < 0 \le x",
    "D = sqrt(v / (1 - b^t))": r"D = \sqrt{v / \left(1 - b^{t}\right)}",
    "v <- M v / |M v|,  s_{t,i}": r"v \leftarrow \frac{M v}{\left|M v\right|}, \quad s_{t,i}",
    "P_t^T G": r"P_{t}^{\top } G",
    "loss = -sum_k y_k log p_k": r"\mathrm{loss} = {-\sum_{k} y_{k}}\,\log\,p_{k}",
    "t^-decay_rate * 1e-8": r"t^{{-\mathrm{decay\_rate}}} \cdot 10^{-8}",
    "x'_t where x_t >= 0": r"x_{t}^{\prime }\ \text{where}\ x_{t} \ge 0",
    "decay m + the mean of x": r"\mathrm{decay}\,m +\ \text{the mean of}\ x",
    "(a - 1) (a - 2) / ((b - 1) b)": r"\frac{\left(a - 1\right)\,\left(a - 2\right)}{\left(b - 1\right)\,b}",
    'h / 2^c    "two_c"': r'\frac{h}{2^{c}} \quad \texttt{"two\_c"}',
}


@pytest.mark.parametrize("line", LINES)
def test_a_line(line: str):
    assert maths.to_latex(line, {"decay"}) == LINES[line]


@pytest.mark.parametrize("block", [
    "x = (a + b", "x) = a", "|a", "import jax", 'reset(tx, where="decoder")', "f(a, step=1)", "x = jnp.sum(x)",
    "x = a # b", '{"w": 1}', "the words of a sentence without any formula", "x = 3 % 2", "", "x _t",
])  # fmt: skip
def test_what_stays_text(block: str):
    assert maths.rows(block) is None


def test_cells_stand_below_each_other():
    made = maths.rows("a = 1          b = 2\nc = 3,    d    e\nf              g = 4")
    assert [[(column, span) for column, span, *_ in row] for row in made] == [
        [(0, 1), (1, 1)],
        [(0, 1), (1, 1)],
        [(0, 1), (1, 1)],
    ]


# Arguments, examples and so on are no formulas.
SECTION = re.compile(r"^[A-Z]\w+:\n(?:  .*\n?|\n(?=  ))+", re.MULTILINE)


def blocks() -> Iterator[tuple[str, str, set[str]]]:
    """Each indented block of a public docstring: where it stands, the text, the arguments."""
    for page, held in catalogue.pages().items():
        names = catalogue.arguments(page)
        for symbol in held:
            if not (symbol.is_value or symbol.is_state):
                prose = SECTION.sub("", inspect.getdoc(symbol.obj) or "")
                written = re.split(r"\n\n(?! {4}|\n)", prose)
                for part in "\n\n".join(written).split("\n\n"):
                    if part.startswith("    "):
                        yield symbol.module, textwrap.dedent(part), names


def is_program(text: str) -> bool:
    try:
        compile(text, "docstring", "exec", ast.PyCF_ONLY_AST)
    except SyntaxError:
        return False
    return True


def _spelt(text: str) -> str:
    return text.replace("epsilon", "eps").replace("lambda", "lamb")


def letters(latex: str) -> str:
    """The letters and digits of the text that LaTeX was made of, in some order."""
    back = {command: name for name, command in (notation.GREEK | notation.OPERATORS).items()}
    back |= {r"\sqrt": "sqrt", r"\hat": "hat", r"\top": "T", r"\infty": "inf", r"\epsilon": "eps", r"\nabla": "grad"}
    latex = re.sub(r"10\^\{(-?\d+)\}", r"1e\1", latex)
    words = re.sub(r"\\[A-Za-z]+", lambda x: back.get(x[0], ""), latex)
    return "".join(sorted(re.sub(r"[^A-Za-z0-9]", "", _spelt(words))))


@pytest.mark.full
def test_the_formulas_of_all_docstrings():
    found = list(blocks())
    made = [(module, text, maths.rows(text, names)) for module, text, names in found]
    assert len(found) > 150
    assert [text for _, text, made_rows in made if made_rows is None and not is_program(text)] == []
    lost = [text for _, text, made_rows in made if made_rows is not None and not _is_whole(text, made_rows)]
    assert lost == []


def _is_whole(text: str, made: Any) -> bool:
    latex = " ".join(cell[2] for row in made for cell in row)
    return letters(latex) == "".join(sorted(re.sub(r"[^A-Za-z0-9]", "", _spelt(text))))
