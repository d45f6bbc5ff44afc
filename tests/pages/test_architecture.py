"""The way of a gradient, as the page on the construction tells it, is the order in which functions are called."""

import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import gdjax

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_way_of_a_gradient_is_walked_in_that_order():
    told = re.findall(r"^\d+\. \*\*`(\S+?)/(\S+?)\.(\S+)`\*\*", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(told) == 10
    told = [(f"{folder}/{file}.py", name.split(".")[-1]) for folder, file, name in told]
    called: list[tuple[str, str]] = []

    def noted(frame: Any, event: str, _: Any) -> None:
        if event == "call" and "gdjax" in frame.f_code.co_filename:
            called.append(("/".join(Path(frame.f_code.co_filename).parts[-2:]), frame.f_code.co_name))

    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(1e-3))
    params = {"a": jnp.ones(64), "b": jnp.ones(32)}
    state = tx.init(params)
    jax.clear_caches()
    sys.setprofile(noted)
    try:
        jax.make_jaxpr(tx.update)(params, state, params)
    finally:
        sys.setprofile(None)
    rest = iter(called)
    missing = [place for place in told if place not in rest]  # each after the one before it
    assert missing == []


def test_the_page_is_short_and_has_few_words_of_its_own():
    page = PAGE.read_text("utf-8")
    words = page.partition("## Words of the inside")[2]
    assert len(page.splitlines()) < 130
    assert 15 < len(re.findall(r"^\| [a-z]", words, re.MULTILINE)) - 1 <= 25
