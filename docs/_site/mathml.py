"""The formulas of the reference as MathML, which browsers set by themselves; `maths.py` reads them."""

import html
import re
from collections.abc import Collection

import maths
from latex2mathml.converter import convert

ROMAN = re.compile(r'(?:<mi mathvariant="normal">[^<]*</mi>)+')
# The names of functions are no operators with blanks around.
FUNCTION = re.compile(r"<mo>(max|min)</mo>")


def to_mathml(latex: str, plain: str) -> str:
    made = convert(latex)
    made = ROMAN.sub(lambda x: f"<mi>{re.sub('<[^>]*>', '', x[0])}</mi>", FUNCTION.sub(r"<mi>\1</mi>", made))
    made = made.replace("<mi>&#x02032;</mi>", '<mi mathsize="150%">&#x02032;</mi>')  # a prime in a power is tiny
    made = made.replace(r"\_", "_").replace("<mi>\\", "<mi>")
    head, _, rest = made.partition(">")
    # The search finds the plain text, and not the symbols.
    inside = f"<mstyle data-search-exclude>{rest.removesuffix('</math>')}</mstyle>"
    text = html.escape(plain)
    note = f'<annotation encoding="text/plain"> {text} </annotation>'
    return f'{head} displaystyle="true" alttext="{text}"><semantics>{inside}{note}</semantics></math>'


# Formulas are the blocks without colours: those of code have them.
BLOCK = re.compile(r'<div class="highlight"><pre><span></span><code>([^<]*)</code></pre></div>')


def block_to_html(block: str, names: Collection[str] = ()) -> str | None:
    made = maths.rows(block, names)
    if made is None:
        return None
    columns = max((k + 1 for row in made for k, *_ in row), default=1)
    cells = [
        f'<div style="grid-area:{i}/{k + 1}/auto/span {span}">{to_mathml(latex, plain)}</div>'
        for i, row in enumerate(made, 1)
        for k, span, latex, plain in row
    ]
    title = html.escape(block.rstrip("\n")).replace("\n", "&#10;")
    tracks = "max-content " * (columns - 1) + "1fr"
    style = f'tabindex="0" title="{title}" style="grid-template-columns:{tracks}"'
    return f'<div class="formulas" {style}>{"".join(cells)}</div>'


def render_page(content: str, names: Collection[str]) -> str:
    """A page with its formulas set. `names` are the arguments of the functions on it."""

    def block(found: re.Match[str]) -> str:
        return block_to_html(html.unescape(found[1]), names) or found[0]

    return BLOCK.sub(block, content)
