"""What `help` shows of a signature: long unions by their names, where the types themselves stay what they are."""

import copy
import inspect
import pydoc
import typing
from typing import Annotated, Any, Literal

import optax
import optax.contrib
import pytest

import gdjax
from gdjax.core.signatures import name_of
from gdjax.core.types import Scalar, ScalarOrSchedule, Schedule

LONGEST = 1150  # characters; shampoo would have 2,600 with each union written out


@pytest.mark.parametrize(("annotation", "text"), [
    (ScalarOrSchedule, "ScalarOrSchedule"),
    (ScalarOrSchedule | None, "ScalarOrSchedule | None"),
    (None | Scalar, "Scalar | None"),
    (Schedule, "Schedule"),
    (str | Schedule, "str | collections.abc.Callable[[typing.Any], typing.Any]"),
    (Any, "Any"),
    (tuple[int, ...], "tuple[int, ...]"),
    (Literal["qr", "eigh"], "Literal['qr', 'eigh']"),
    (Annotated[float, {}], "Annotated[float, {}]"),
])  # fmt: skip
def test_long_unions_print_by_their_names(annotation: Any, text: str):
    assert inspect.formatannotation(name_of(annotation)) == text


def public() -> dict[str, Any]:
    names = [*gdjax.__all__, *(f"losses.{name}" for name in gdjax.losses.__all__)]
    found = {name: getattr(gdjax.losses if "." in name else gdjax, name.rpartition(".")[2]) for name in names}
    return {name: x for name, x in found.items() if inspect.isroutine(x) or inspect.isclass(x)}


def test_every_signature_is_short():
    shown = {name: str(inspect.signature(x)) for name, x in public().items()}
    assert len(shown) > 400
    assert {name: len(text) for name, text in shown.items() if len(text) > LONGEST} == {}


def test_the_types_stay_what_they_are():
    hints = typing.get_type_hints(gdjax.soap)
    assert hints["learning_rate"] == ScalarOrSchedule
    assert hints["return"] is gdjax.GradientTransformation
    signature = inspect.signature(gdjax.soap)
    assert str(signature).startswith("(learning_rate: ScalarOrSchedule, b1: ScalarOrSchedule = 0.95, ")
    assert signature.parameters["bias_correction"].annotation is bool
    assert str(signature).endswith("-> gdjax.core.base.GradientTransformation")


def test_annotations_are_the_types_that_programs_compare():
    """As Optax's own tests do: `annotation in (base.ScalarOrSchedule, base.Schedule)`."""
    for factory, name in [(gdjax.adam, "learning_rate"), (gdjax.scale_by_adam, "b1"), (gdjax.rprop, "eta_plus")]:
        shown = inspect.signature(factory)
        assert shown.parameters[name].annotation == gdjax.ScalarOrSchedule
        assert shown.return_annotation is gdjax.GradientTransformation
        assert typing.get_type_hints(factory) == {
            **{p.name: p.annotation for p in shown.parameters.values()}, "return": gdjax.GradientTransformation
        }  # fmt: skip


def test_optax_and_gdjax_annotate_the_same_learning_rates():
    told = {}
    for module, theirs, ours in [(optax, optax, gdjax), (optax.contrib, optax, gdjax)]:
        for name, factory in vars(module).items():
            public = name[0] != "_" and inspect.isfunction(factory)
            if public and "learning_rate" in inspect.signature(factory).parameters:
                both = (inspect.signature(f).parameters["learning_rate"] for f in (factory, getattr(ours, name)))
                pair = [p.annotation for p in both]
                types = [(m.ScalarOrSchedule, m.Schedule) for m in (theirs, ours)]
                told[name] = [annotation in either for annotation, either in zip(pair, types, strict=True)]
    assert len(told) > 40
    assert {name: x for name, x in told.items() if x[0] and not x[1]} == {}


def test_a_signature_that_was_changed_still_prints():
    signature = inspect.signature(gdjax.soap)
    one = signature.replace(parameters=[signature.parameters["bias_correction"]])
    assert str(one).startswith("(*, bias_correction: bool = ")
    assert copy.copy(signature) == signature


def test_a_rule_of_a_user_shows_what_its_factory_takes():
    @gdjax.leafwise()
    def scaled(g: Any, s: Any, p: Any, t: Any, factor: gdjax.Hyper = 1.0, *, name: str | None = None) -> Any:
        return factor * g, s

    assert str(inspect.signature(scaled)) == (
        "(factor: ScalarOrSchedule = 1.0, *, name: str | None = None) -> gdjax.core.base.GradientTransformation"
    )


def test_help_has_no_union():
    text = inspect.cleandoc(gdjax.soap.__doc__ or "")
    shown = pydoc.render_doc(gdjax.soap, renderer=pydoc.plaintext)
    assert "learning_rate: ScalarOrSchedule" in shown and text.splitlines()[0] in shown and "Union[" not in shown


def test_a_hyperparameter_of_a_rule_that_may_be_none_says_so():
    shown = inspect.signature(gdjax.scale_by_soap).parameters
    given = typing.get_type_hints(gdjax.scale_by_soap)
    assert shown["b1"].annotation == given["b1"] == ScalarOrSchedule
    assert shown["shampoo_beta"].annotation == given["shampoo_beta"] == ScalarOrSchedule | None
    assert "shampoo_beta: ScalarOrSchedule | None = None" in str(inspect.signature(gdjax.scale_by_soap))
