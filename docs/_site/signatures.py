"""Signatures as `help` shows them: of a factory made by a decorator its own, not that of the rule inside it."""

import importlib
import inspect
from typing import Any

from griffe import Extension, Function

from gdjax.core.signatures import facts_of, name_of


class Signatures(Extension):
    """Leaves out the arguments that a caller does not pass, and shows types without domains, and functions by name."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        called = _found(func.path)
        if not callable(called):
            return
        signature = inspect.signature(called)
        for parameter in [p.name for p in func.parameters if p.name not in signature.parameters]:
            del func.parameters[parameter]
        for parameter in func.parameters:
            own = signature.parameters[parameter.name]
            if facts_of(signature, parameter.name) or name_of(own.annotation) is not own.annotation:
                parameter.annotation = inspect.formatannotation(name_of(own.annotation))
            if " at 0x" in repr(own.default):  # a function, or an object that does not tell what it is
                parameter.default = getattr(own.default, "__name__", f"{type(own.default).__name__}()")
        if inspect.isclass(signature.return_annotation) and signature.return_annotation is not signature.empty:
            func.returns = signature.return_annotation.__name__


def _found(path: str) -> Any:
    """The function, or the method of a class, of that path."""
    holder, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(holder), name, None)
    except ImportError:
        return getattr(_found(holder), name, None) if holder else None
