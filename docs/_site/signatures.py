"""Signatures as `help` shows them: of a factory made by a decorator its own, not that of the rule inside it."""

import importlib
import inspect
from typing import Any

from griffe import Extension, Function

from gdjax.core.signatures import shortened


class Signatures(Extension):
    """Leaves out the arguments that a caller does not pass, and names types as the source does."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        module, _, name = func.path.rpartition(".")
        try:
            called = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):  # a method
            return
        signature = shortened(called, inspect.signature(called))
        for parameter in [p.name for p in func.parameters if p.name not in signature.parameters]:
            del func.parameters[parameter]
        for parameter in func.parameters:
            parameter.annotation = _text(signature.parameters[parameter.name].annotation)
        func.returns = _text(signature.return_annotation)


def _text(annotation: Any) -> str | None:
    return None if annotation is inspect.Signature.empty else inspect.formatannotation(annotation)
