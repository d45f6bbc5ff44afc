"""What leaves are by their names and shapes.

Conventions: arrays called `weight` are (outputs, inputs, window), as in Equinox and PyTorch; all others are
(window, inputs, outputs), as in Flax. Axes before these are stacks of layers or experts.
"""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gdjax.linalg.matrices import Matrix, is_trained

_BIAS = re.compile(r"^(b[qkvo]?\d*|b_\w+|betas?|offset)$|(^|_)bias(es)?(_(ih|hh|n|k|v)(_l\d+(_reverse)?)?)?$")
_SCALE = re.compile(r"^(g|gain|gammas?|scales?|ls\d*)$|_(scale|gain|gamma)$")
_NORM = re.compile(r"(^|_)([a-z]*norms?|lnf?|bn|gn|rms)\d*(_|$)")
_OTHER = re.compile(r"^(a_log|dt_bias|log_dt|inv_freq|freqs?|negative_slope|time_(mix|decay|first|faaaa)\w*)$")
_ROUTER = re.compile(r"(^|_)(router|routing|gating)(_weights?)?$")
_GATE = re.compile(r"(^|_)gate$|^(switch|wg)$")
_HEAD = re.compile(
    r"(^|_)(un_?embed(ding)?|logits?(_?dense)?|classifier|embed_out)$|^conv_out$|(^|(?<!multi)(?<!attention)_)head$"
)
_LAST = re.compile(r"^(out|output|output_layer|fc_out|readout|decoder|final|final_layer)$")  # a head if not in a block
_EMBEDDING = re.compile(r"emb(s|eds?|edders?|eddings?)?\d*(_|$)|(^|_)stem$")
_TOKENS = re.compile(
    r"^(wte|wpe|pe|cls|conv_in(it)?|pos|positions?|positional|lookup|patch(ify|es)?|patch_(proj|conv)\w*)$|^pos\w*_enc\w*$"
    r"|(^|_)(toks?|tokens?|tables?|vocab|codebook|registers?)$"
)
_LEARNED = re.compile(r"^(probe|latents?|prompts?|prefix)$")  # vectors that are put beside those of tokens
_NOT_TIED = re.compile(r"(^|_)(wpe|pe|pos\w*|type\w*|cls|registers?)(_|$)")  # embeddings of what no model predicts
_STATE = re.compile(r"^[bcd](_re|_im|_real|_imag)?$")  # of a state-space model, if its eigenvalues are beside
_EIGENVALUES = frozenset("a_log lambda lambda_re lambda_im nu_log theta_log log_step".split())
_QUERY = re.compile(r"^(to_|w_?)?((?P<query>q|query|queries)|(?P<key>k|keys?)|v|values?)(_?proj)?$")
_OUT = re.compile(r"^(to_|w_?)?(o|out|output)(_?proj)?$|^attn_out\w*$|^attn_vec_einsum$")
_HEADS_FIRST = re.compile(r"^(q|kv|qkv)_einsum$")  # (heads, inputs, outputs of a head)
_QKV = re.compile(r"^(to_|w_?)?qkv(_?proj)?$|^c_attn$")
_KV = re.compile(r"^(to_|w_?)?kv(_?proj)?$")
_TWO = re.compile(r"^(w_?)?(gate_(and_)?up|up_gate)(_?proj)?$|^(wi|w1)_fused$|^w12$")
_UP = re.compile(r"^(linear_|w_?)?(q|kv)_(b|up)(_proj)?$|^w_?u[qkv]$")  # of latent attention, to all heads
_OF_ATTENTION = _QUERY, _OUT, _HEADS_FIRST, _QKV, _KV
_PER_HEAD = re.compile(r"^query_key_value$")  # GPT-NeoX and BLOOM have q, k, v of each head beside each other
_GATES = re.compile(r"^(weight_([ih])h|dense_([ih]))(_l\d+(_reverse)?)?$")  # of a recurrent cell, beside each other
_ATTENTION = re.compile(r"att(n|ention)|mha")
_FEED_FORWARD = re.compile(r"expert|moe|mlp|ffn|feed_?forward")
_EXPERTS = re.compile(r"expert|moe")
_CONVOLUTION = re.compile(r"conv(?!er)(?:\w*?([123])d)?")
_GENERAL = re.compile(r"^(dense|linear)_general$|^einsum$")
_STACKS = frozenset("layers blocks stack stages h".split())
_WRAPPERS = frozenset("params model module net network transformer".split())
_ARRAYS = frozenset("kernel weight weights w param default".split())
_LARGEST_WINDOW, _LARGEST_PATCH = 7, 32
WIDEST_HEAD = 256  # numbers; the inputs of a layer without an axis of heads are more


class Name(NamedTuple):
    """The keys of a path in lower case, "multi_head" for MultiHead_0, without numbers and wrappers of a model."""

    keys: tuple[str, ...]
    stacked: bool  # whether one array has all layers: "layers/kernel", not "layers/0/kernel"
    in_layer: bool  # whether it lies in one of several layers, numbered or stacked

    @property
    def leaf(self) -> str:
        return self.keys[-1] if self.keys else ""

    @property
    def what(self) -> str:
        """The name of the layer, of "attn/q_proj/weight" and "attn/q_proj" q_proj."""
        named = [re.sub(r"_(weight|kernel|w)$", "", k) for k in self.keys if k not in _ARRAYS]
        return named[-1] if named else ""

    @property
    def depth(self) -> int:
        return sum(key not in _ARRAYS for key in self.keys)

    @property
    def outputs_first(self) -> bool:
        return re.search(r"(^|_)weight(_[ih]h(_l\d+(_reverse)?)?)?$", self.leaf) is not None

    @property
    def is_array(self) -> bool:
        """Whether the leaf has no name of its own beside that of its layer."""
        return self.leaf in _ARRAYS or self.outputs_first

    def near(self, pattern: re.Pattern[str]) -> bool:
        return any(pattern.search(key) for key in self.keys[-3:])

    def within(self, pattern: re.Pattern[str]) -> bool:
        return any(pattern.search(key) for key in self.keys)


def name_of(path: str) -> Name:
    words = [_snake(word) for word in re.split(r"[/.]", path)]
    keys = [re.sub(r"(?<=[a-z])_\d+$", "", word) for word in words]
    named = [k for k in keys if k.strip("~_") and not k.isdigit() and k not in _WRAPPERS]
    stacked = any(w in _STACKS and not a.isdigit() for w, a in zip(words, [*words[1:], ""], strict=True))
    around = words[: -2 if words[-1] in _ARRAYS else -1]
    return Name(tuple(named), stacked, stacked or any(re.search(r"\d", word) for word in around))


def _snake(word: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z]{2,})", "_", word).lower()


def role_of(name: Name, shape: Sequence[int], siblings: frozenset[str]) -> tuple[Matrix | str, str]:
    """How a leaf is a matrix, or its role if it is none; and a note on anything unknown about that.

    Args:
      siblings: the last keys of the leaves beside it, also of those that a mask hides.
    """
    if role := _by_name(name, len(shape), siblings):
        return role, ""
    if len(shape) < 2:
        return "norm" if name.is_array else "other", ""
    if name.near(_GENERAL) and len(shape) > 2:
        return "other", f"which axes of shape {tuple(shape)} are inputs"
    if window := _window(name, shape):
        return _convolution(name, shape, window)
    numbers, unknown = matrix_of(name, shape)
    inputs, outputs = sizes_of(numbers, shape)
    if min(inputs, outputs) <= 1:
        return "other", ""  # a vector
    return ("router", "") if is_gate(name) and 4 * outputs <= inputs else (numbers, unknown)


def _by_name(name: Name, ndim: int, siblings: frozenset[str]) -> str:
    letter = len(name.leaf) == 1 and "a" in siblings  # a and b are any two arrays, or LoRA's
    if _OTHER.search(name.leaf) or _STATE.search(name.leaf) and siblings & _EIGENVALUES:
        return "other"
    if _BIAS.search(name.leaf) and not letter:
        return "bias"
    if (_SCALE.search(name.leaf) and not letter) or (name.leaf != "kernel" and _NORM.search(name.what)):
        return "norm"
    if _LEARNED.search(name.leaf):
        return "embedding"
    if name.near(_ROUTER):
        return "router"
    if name.near(_HEAD) or (ndim == 2 and name.depth == 1 and _LAST.search(name.what)):
        return "head"
    if name.near(_EMBEDDING) or _TOKENS.search(name.what):
        return "head" if name.what == "cls" and name.is_array and ndim == 2 else "embedding"  # a token has no kernel
    return ""


def sizes_of(numbers: Matrix, shape: Sequence[int]) -> tuple[int, int]:
    """The inputs and outputs of a matrix."""
    rows, columns = ((x,) if isinstance(x, int) else x for x in numbers[:2])
    return math.prod(shape[i] for i in rows), math.prod(shape[i] for i in columns)


def matrix_of(name: Name, shape: Sequence[int]) -> tuple[Matrix, str]:
    """How an array of two axes or more is a matrix; and a note on anything unknown about that."""
    if window := _window(name, shape):
        return _convolution_axes(name, window), ""
    if heads := _heads_of_outputs_first(name, shape) if name.outputs_first else _heads(name, shape):
        return heads, ""
    rows, columns = (-1, -2) if name.outputs_first else (-2, -1)
    inputs, outputs = shape[rows], shape[columns]
    if is_qkv(name) and inputs == 3 * outputs:  # GPT-2's weights of PyTorch are (inputs, outputs)
        return Matrix(columns, rows, 3), ""
    parts = _parts(name, inputs, outputs)
    cut = outputs == 3 * inputs if is_qkv(name) else outputs % parts == 0 and not _PER_HEAD.search(name.what)
    return (
        (Matrix(rows, columns, parts), "") if cut else (Matrix(rows, columns), f"where its {outputs} outputs are cut")
    )


def is_gate(name: Name) -> bool:
    """Whether it may choose among experts, and is no gate inside an expert."""
    return _GATE.search(name.what) is not None and not any("expert" in key for key in name.keys)


def is_tied(name: Name) -> bool:
    """Whether an embedding of this name may be the head too: it is not one of positions or types."""
    return _NOT_TIED.search(name.what) is None


def is_of_experts(name: Name) -> bool:
    return name.within(_EXPERTS)


def is_named_head(name: Name) -> bool:
    return name.near(_HEAD)


def is_query(name: Name) -> bool:
    return _QUERY.search(name.what) is not None and not name.outputs_first


def attention_part(name: Name) -> str:
    """The part of attention that a layer makes: the "query" or the "key" of each head; else ""."""
    found = _QUERY.search(name.what)
    return "" if found is None else "query" if found["query"] else "key" if found["key"] else ""


def is_out(name: Name) -> bool:
    return _OUT.search(name.what) is not None and not name.outputs_first


def has_heads(name: Name) -> bool:
    """Whether its outputs are those of the heads of queries, keys or values."""
    return any(x.search(name.what) for x in (_QUERY, _QKV, _KV, _PER_HEAD)) or is_latent(name)


def is_latent(name: Name) -> bool:
    """Whether it makes the heads of multi-head latent attention, which are of several sizes."""
    return _UP.search(name.what) is not None


def is_qkv(name: Name) -> bool:
    in_attention = name.leaf == "in_proj_weight" or name.what == "in_proj" and name.within(_ATTENTION)
    return in_attention or _QKV.search(name.what) is not None


def _parts(name: Name, inputs: int, outputs: int) -> int:
    """The number of matrices side by side, by the name."""
    if is_qkv(name):
        return 3
    if found := _GATES.search(name.what):
        by_name = 4 if any("lstm" in key for key in name.keys) else 3 if any("gru" in key for key in name.keys) else 1
        return outputs // inputs if "h" in found.groups() and outputs in (3 * inputs, 4 * inputs) else by_name
    return 2 if _KV.search(name.what) or _TWO.search(name.what) else 1


def _heads(name: Name, shape: Sequence[int]) -> Matrix | None:
    """The axes of attention whose heads have an axis of their own."""
    if len(shape) < 3:
        return None
    a, b, c = shape[-3:]
    if _HEADS_FIRST.search(name.what):
        return Matrix(-2, (-3, -1))
    if fused := 3 if _QKV.search(name.what) else 2 if _KV.search(name.what) else 0:
        if len(shape) > 3 and shape[-4] == fused:  # before the heads, or before the inputs
            return Matrix(-3, (-2, -1)) if a == b * c else Matrix(-2, (-3, -1))
        if len(shape) > 3 and a == fused:
            return Matrix(-4, (-2, -1))
        if b == fused:
            return Matrix(-4, (-3, -1)) if len(shape) > 3 else Matrix(-3, -1)
        return Matrix(-3, (-2, -1)) if len(shape) > 3 and a > b else None
    if _QUERY.search(name.what) or is_latent(name):  # not a stack, of which the first axis is the shortest
        most = 2 if name.stacked and len(shape) == 3 else 16  # outputs for each input; in a stack b inputs
        return Matrix(-3, (-2, -1)) if a > b and (b * c <= most * a or is_latent(name)) else None
    if _OUT.search(name.what) and not name.within(_FEED_FORWARD):
        return Matrix((-3, -2), -1) if b < c and a * b <= 4 * c else None
    return None


def _heads_of_outputs_first(name: Name, shape: Sequence[int]) -> Matrix | None:
    """The axes of attention in arrays of outputs first: (heads, size, inputs), or (outputs, heads, size)."""
    first = int(name.stacked)
    places = [i - len(shape) for i in range(first, len(shape))]
    query, out = _QUERY.search(name.what), _OUT.search(name.what) and not name.within(_FEED_FORWARD)
    if len(places) < 3 or not (query or out):
        return None
    one, heads = (places[-1], places[:-1]) if query else (places[0], places[1:])
    several, single = math.prod(shape[i] for i in heads), shape[one]
    fits = shape[heads[-1]] <= WIDEST_HEAD and shape[heads[-1]] < single and single % several == 0
    return (Matrix(one, tuple(heads)) if query else Matrix(tuple(heads), one)) if fits else None


def _window(name: Name, shape: Sequence[int]) -> int:
    """The number of axes of a convolution's window; 0 for no convolution."""
    ndim = len(shape)
    found = next((m for key in reversed(name.keys[-3:]) if (m := _CONVOLUTION.search(key))), None)
    if ndim < 3 or name.within(_FEED_FORWARD) and not found or any(x.search(name.what) for x in _OF_ATTENTION):
        return 0
    if found and found[1]:
        return int(found[1]) if ndim >= int(found[1]) + 2 else 0
    if found:
        ends = shape[-3:] if name.outputs_first else shape[:3]
        return 2 if ndim == 5 and (name.stacked or max(ends) > _LARGEST_WINDOW) else min(ndim - 2, 3)
    window = shape[2:] if name.outputs_first else shape[:2]
    most = _LARGEST_PATCH if name.outputs_first else _LARGEST_WINDOW
    return 2 if ndim == 4 and max(window) <= most and window[0] == window[1] else 0


def _convolution_axes(name: Name, window: int) -> Matrix:
    if name.outputs_first:
        return Matrix(tuple(range(-window - 1, 0)), -window - 2)
    return Matrix(tuple(range(-window - 2, -1)), -1)


def _convolution(name: Name, shape: Sequence[int], window: int) -> tuple[Matrix | str, str]:
    channels = shape[-window - 1] if name.outputs_first else shape[-2]
    if channels == 1:
        return "other", ""  # depthwise, or of grey pictures: no channels are mixed
    if channels == 3 and window == 2:
        return "embedding", ""  # of coloured pictures
    return _convolution_axes(name, window), ""


class Read(NamedTuple):
    """A leaf and its reading."""

    path: str
    name: Name
    shape: tuple[int, ...]
    role: Matrix | str
    unknown: str = ""  # a note on anything unknown

    @property
    def place(self) -> str:
        return split(self.path)[0]

    @property
    def stack(self) -> str:
        """The path of the stack in which it has all layers; "" for none."""
        words = self.path.replace(".", "/").split("/")
        ends = (i for i, word in enumerate(words) if _snake(word) in _STACKS)
        return "/".join(words[: next(ends, -1) + 1]) if self.name.stacked else ""

    @property
    def around(self) -> str:
        """The path around its layer: attn for attn/query/kernel and for attn/query."""
        return split(self.place)[0] if self.name.is_array else self.place

    @property
    def kind(self) -> str:
        """Its role, "matrix" where that is a `Matrix`."""
        return self.role if isinstance(self.role, str) else "matrix"

    def but(self, unknown: str, axes: Sequence[tuple[Any, Any]] = ()) -> "Read":
        """The same, with a note on what is unknown.

        Args:
          axes: those of the inputs and of the outputs that an override may name, one pair or several to choose from.
        """
        if not unknown:
            return self
        a_matrix = isinstance(self.role, Matrix)
        taken = "taken for one matrix" if a_matrix else f"given the role {self.role!r}"
        if self.is_stack:
            taken = f"taken for {math.prod(self.shape[:-2])} matrices of {self.shape[-2]} x {self.shape[-1]}"
        if axes:
            known = [f"{rows}, {columns}" for rows, columns in axes]
        elif a_matrix:
            known = ["-1, -2, parts=..." if self.name.outputs_first else "-2, -1, parts=..."]
        else:  # one axis of inputs, or one of outputs
            cuts = dict.fromkeys((self.cut(1), self.cut(len(self.shape) - 1)))
            known = [f"{rows}, {columns}" for rows, columns in cuts]
        how = " or ".join(f"{{{self.path!r}: gdjax.Matrix({x})}}" for x in known)
        where = "in the roles of the method and, where label_by_role makes the groups, there too"
        text = (
            f"it cannot be known {unknown}: {self.path} of shape {self.shape} is {taken}; override it by {how}, {where}"
        )
        return self._replace(unknown=text)

    def cut(self, inputs: int, first: int = 0) -> tuple[Any, Any]:
        """The axes of the inputs, `inputs` many after the first axes, and of the outputs, which follow."""
        places = list(range(first, len(self.shape)))
        return one_or_all(places[:inputs]), one_or_all(places[inputs:])

    def axes_without(self, axis: int) -> tuple[Any, Any]:
        """The axes of the inputs and of the outputs, if one axis is of layers."""
        rest = [i for i in range(len(self.shape)) if i != axis]
        role, _ = matrix_of(self.name._replace(stacked=False), [self.shape[i] for i in rest])
        named = [(x,) if isinstance(x, int) else x for x in role[:2]]
        rows, columns = (one_or_all([rest[i] for i in axes]) for axes in named)
        return rows, columns

    @property
    def is_stack(self) -> bool:
        """Whether matrices lie along its first axis."""
        if not isinstance(self.role, Matrix):
            return False
        named = [(x,) if isinstance(x, int) else x for x in self.role[:2]]
        return 0 not in {i % len(self.shape) for axes in named for i in axes}


def one_or_all(places: Sequence[int]) -> Any:
    return places[0] if len(places) == 1 else tuple(places)


def split(path: str) -> tuple[str, str]:
    """The path of the layer, and the leaf's own key. A state dict has the whole path in one key, with dots."""
    place, _, last = path.replace(".", "/").rpartition("/")
    return place, last


def read(path: str, x: Any, given: Any, siblings: frozenset[str]) -> Read:
    return _read(path, tuple(np.shape(x)), is_trained(x), given, siblings)


@functools.lru_cache(maxsize=4096)  # all slots of an optimizer ask
def _read(path: str, shape: tuple[int, ...], trained: bool, given: Any, siblings: frozenset[str]) -> Read:
    name, unknown = name_of(path), ""
    if not trained:
        role: Any = "other"
    elif given is None:
        role, unknown = role_of(name, shape, siblings)
    elif given == "matrix":
        role = matrix_of(name, shape)[0] if len(shape) > 1 else Matrix()  # the plan says that it is none
    else:
        role = given
    return Read(path, name, shape, role).but(unknown)
