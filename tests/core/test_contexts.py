"""Contexts: fields that are others for a while."""

import threading
from typing import Any

import pytest

from gdjax.core.contexts import PASS, WHERE, within


def test_fields_are_others_inside_alone():
    with within(WHERE, mesh="m", tried=True):
        assert (WHERE.get().mesh, WHERE.get().tried, WHERE.get().warned) == ("m", True, False)
    assert (WHERE.get().mesh, WHERE.get().tried) == (None, False)


def test_contexts_nest():
    with within(WHERE, mesh="outer", tiles=(1,)):
        with within(WHERE, mesh="inner"):
            assert (WHERE.get().mesh, WHERE.get().tiles) == ("inner", (1,))
        assert WHERE.get().mesh == "outer"


def test_an_error_ends_a_context():
    with pytest.raises(ValueError, match="here"), within(PASS, replay=1):
        raise ValueError("here")
    assert PASS.get().replay is None


def test_the_two_contexts_are_apart():
    with within(PASS, selection="s"):
        assert WHERE.get() == type(WHERE.get())() and PASS.get().selection == "s"


def test_another_thread_has_its_own():
    seen: list[Any] = []
    with within(WHERE, mesh="m"):
        thread = threading.Thread(target=lambda: seen.append(WHERE.get().mesh))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_field_that_does_not_exist():
    with pytest.raises((ValueError, TypeError)), within(WHERE, mash=1):  # by the release of Python
        pass
    assert WHERE.get() == type(WHERE.get())()
