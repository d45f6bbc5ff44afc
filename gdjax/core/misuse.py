"""Other libraries' names for arguments, and how optimizers are often misused.

A dialect, such as Optax's, is a set of defaults, which stand in one table over the factory. Where defaults are not
enough, the body of the factory chooses another rule.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Dialect = Literal["optax", "torch", "paper"]
_DEFAULTS = "__gdjax_dialects__"  # an attribute of a factory, which `functools.wraps` copies


def dialects(*, torch: Mapping[str, Any], paper: Mapping[str, Any]) -> Callable[[F], F]:
    """Gives a factory its defaults for like="torch" and like="paper"; those for "optax" are in its signature.

    They take the place of arguments that a call leaves out.
    """

    def decorate(factory: F) -> F:
        setattr(factory, _DEFAULTS, {"torch": torch, "paper": paper})
        return factory

    return decorate


def share(factory: Any, other: Any) -> None:
    """Gives the dialects of `factory` to `other`, which takes the same arguments."""
    setattr(other, _DEFAULTS, getattr(factory, _DEFAULTS, {}))


def defaults(factory: Any, like: object) -> Mapping[str, Any]:
    """The defaults of a dialect of a factory; none for an unknown dialect, which the check of `like` reports."""
    return getattr(factory, _DEFAULTS, {}).get(like, {}) if isinstance(like, str) else {}


# Names of arguments in other libraries, and ours: "name" holds in every factory, "factory.name" in that one. Several
# names of ours stand for a tuple of as many numbers. A message shows only names that the factory has.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "betas": ("b1", "b2", "b3"),
    **{f"beta{i}": (f"b{i}",) for i in (1, 2, 3)},
    **{f"beta_{i}": (f"b{i}",) for i in (1, 2, 3)},
    "epsilon": ("eps",),
    "wd": ("weight_decay", "weight_decay_rate"),
    "adafactor.weight_decay": ("weight_decay_rate",),
    **{f"adam_{x}": ("others",) for x in ("b1", "b2", "eps", "eps_root", "weight_decay")},
    "muon.momentum": ("beta",),
    "rmsprop.alpha": ("decay",),
    "rmsprop.rho": ("decay",),
    "rprop.etas": ("eta_minus", "eta_plus"),
    "rprop.step_sizes": ("min_step_size", "max_step_size"),
}
_DECOUPLED = {"adam": "adamw", "adamax": "adamaxw", "nadam": "nadamw"}
_UNDECAYED = "adagrad adam adamax adopt amsgrad nadam radam rmsprop sgd yogi".split()


def _decay(name: str) -> str:
    decoupled = f"write {_DECOUPLED[name]}(...), or " if name in _DECOUPLED else ""
    return f"{decoupled}for torch's L2 form write chain(add_decayed_weights(...), {name}(...))"


_ADVICE: Mapping[str, str] = {
    "sgd.dampening": "leave it out, there is none: each gradient is added whole, as with dampening=0",
    "adam.amsgrad": "write amsgrad(...) in place of adam(..., amsgrad=True)",
    **{f"{name}.{decay}": _decay(name) for name in _UNDECAYED for decay in ("wd", "weight_decay")},
}


def bound_arguments(
    label: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """The arguments of a call; errors begin with `label`.

    Raises:
      TypeError: they do not fit the signature; the message says what to write, and lists the valid names.
    """
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as e:
        problems = _unknown(label, signature, args, kwargs) or [str(e)]
    names = ", ".join(signature.parameters)
    raise TypeError(f"{label}: {'; '.join(problems)}; {f'its arguments are {names}' if names else 'it takes none'}")


NOT_CALLED = "__gdjax_not_called__"  # an attribute of the functions that stand for `init` and `update` of a factory


def is_transform(x: Any) -> bool:
    if isinstance(x, type) and not isinstance(inspect.getattr_static(x, "init", None), staticmethod):
        return False  # a class has an `init` for its instances
    return hasattr(x, "init") and hasattr(x, "update") and not hasattr(x.init, NOT_CALLED)


def no_transform(x: object) -> str | None:
    """Why `x` is no transform, and what to write for a list of transforms or a factory; None for a transform."""
    if is_transform(x):
        return None
    if isinstance(x, list | tuple):
        return f"a {type(x).__name__}; of its transforms make one: chain(*transforms)"
    if callable(x):
        return f"not a transform; if it makes one, call it: {getattr(x, '__name__', 'f')}(...)"
    return "which has no init and update"


def _unknown(label: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """A message for each keyword that the signature does not have."""
    kinds = {name: p.kind for name, p in signature.parameters.items()}
    if inspect.Parameter.VAR_KEYWORD in kinds.values():
        return []
    by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    valid = [name for name, kind in kinds.items() if kind in by_name]
    bound = dict(zip(valid, args, strict=False)) | {k: x for k, x in kwargs.items() if k in valid}
    messages = []
    for name, value in kwargs.items():
        if name not in valid:
            hint = _hint(label, name, value, valid, bound)
            messages.append(f"unknown argument {name!r}" + (f": {hint}" if hint else ""))
    return messages


def _hint(label: str, name: str, value: Any, valid: list[str], bound: Mapping[str, Any]) -> str:
    """What to write in place of an unknown argument; "" where nothing is known."""
    path = f"{label.removeprefix('gdjax.')}.{name}" if label.startswith("gdjax.") else name
    if path in _ADVICE:
        return _ADVICE[path]
    ours = [x for x in _NAMES.get(path, _NAMES.get(name, ())) if x in valid]
    if not ours:
        near = difflib.get_close_matches(name, [x for x in valid if x not in bound], 1)
        return f"perhaps {near[0]}" if near else ""
    if taken := [x for x in ours if x in bound]:
        hint = f"that is {taken[0]}, which is given too"
        params = isinstance(bound[taken[0]], Mapping | list | tuple | Iterator)  # as in torch.optim
        return f"{hint}; parameters go to init(params)" if params else hint
    fits = isinstance(value, tuple | list) and len(value) == len(ours) > 1
    if fits and all(isinstance(x, int | float) for x in value):
        ours = [f"{x}={v!r}" for x, v in zip(ours, value, strict=True)]
    return f"write {', '.join(ours)}"
