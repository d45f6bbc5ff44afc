"""Signatures as `help` shows them: of a factory made by a decorator its own, not that of the rule inside it."""

import importlib
import inspect
from typing import Any

from griffe import Extension, Function

from gdjax.core.values import aliases, by_name


class Signatures(Extension):
    """Leaves out the arguments that a caller does not pass, and names types and functions as the source does."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        called = _found(func.path)
        if not callable(called):
            return
        signature = inspect.signature(called)
        names = getattr(signature, "names", None) or aliases(called)
        for parameter in [p.name for p in func.parameters if p.name not in signature.parameters]:
            del func.parameters[parameter]
        for parameter in func.parameters:
            own = signature.parameters[parameter.name]
            parameter.annotation = _text(own.annotation, names)
            if " at 0x" in repr(own.default):  # a function, or an object that does not tell what it is
                parameter.default = getattr(own.default, "__name__", f"{type(own.default).__name__}()")
        func.returns = _text(signature.return_annotation, names)


def _found(path: str) -> Any:
    """The function, or the method of a class, of that path."""
    holder, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(holder), name, None)
    except ImportError:
        return getattr(_found(holder), name, None) if holder else None


def _text(annotation: Any, names: dict[str, Any]) -> str | None:
    return None if annotation is inspect.Signature.empty else by_name(inspect.formatannotation(annotation), names)
