"""The signature of a factory made by a decorator is the one that it has, and not that of the rule inside it."""

import importlib
import inspect
from typing import Any

from griffe import Extension, Function


class Signatures(Extension):
    """Leaves out the arguments that a caller does not pass."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        module, _, name = func.path.rpartition(".")
        try:
            called = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):  # a method
            return
        passed = inspect.signature(called).parameters
        for parameter in [p.name for p in func.parameters if p.name not in passed]:
            del func.parameters[parameter]
