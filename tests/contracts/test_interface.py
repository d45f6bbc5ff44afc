"""The public interface changes on purpose alone, and the changelog says so."""

import inspect

from tests import interface


def test_the_interface_is_the_one_that_was_written_down():
    old, new = interface.read(), dict(interface.rows())
    assert len(new) > 600
    told = "\nName each in the first section of CHANGELOG.md, then run python -m tests.interface"
    assert old == new, interface.difference(old, new) + told


def test_a_change_that_the_changelog_does_not_name_is_found():
    old = {"adam": "(learning_rate)", "losses.gone": "(x)", "sgd": "(learning_rate)"}
    new = {"adam": "(learning_rate, b1=0.9)", "sgd": "(learning_rate)", "yogi": "(learning_rate)"}
    changed = interface.changes(old, new)
    assert changed == ["adam", "losses.gone", "yogi"]
    log = "# Changelog\n\n## [Unreleased]\n\n- `adam(b1=)`.\n- `gone` is gone.\n- `yogis`.\n\n## [0.2.0]\n\n- `yogi`.\n"
    assert interface.untold(changed, log) == ["yogi"]
    shown = interface.difference(old, new).splitlines()
    assert "-losses.gone: (x)" in shown and "+yogi: (learning_rate)" in shown and len(shown) == 6


def test_parameters_are_shown_with_kinds_and_defaults():
    def f(a, b=2.0, *rest, c, d=len, **more):
        pass

    def g(a, *, b=None):
        pass

    assert interface.parameters(inspect.signature(f)) == "(a, b=2.0, *rest, c, d=len, **more)"
    assert interface.described(g) == "value"  # it is not of the library
    assert interface.parameters(inspect.signature(g)) == "(a, *, b=None)"
