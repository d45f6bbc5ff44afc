"""What the names of leaves and layers stand for: one table of names, and one of the roles that follow from them."""

import re
from typing import NamedTuple

# What a key of a path stands for, and its spellings in Flax, Equinox, PyTorch, MaxText and published models. A spelling
# is a regular expression of a whole key in lower case, with abbreviations: an underscore at an end is the end of a word
# or of the key; `#` is a number or nothing; `%` is what PyTorch appends for a layer of a cell, as _l0_reverse; a plus
# in front of q is for to_q, wq, w_q, q_proj and qproj, too.
NAMES = {
    "bias": r"b[qkvo]?# b_\w+ betas? offset _bias(es)?((_ih|_hh|_n|_k|_v)%)?",
    "gain": r"g ls# gammas scales _(scale|gain|gamma)",
    "norm": r"_([a-z]*norms?|lnf?|bn|gn|rms)#_",
    "constant": r"a_log dt_bias log_dt inv_freq freqs? negative_slope time_(mix|decay|first|faaaa)\w*",
    "state": r"[bcd](_re|_im|_real|_imag)?",  # of a state-space model, if its eigenvalues are beside
    "eigenvalues": r"a_log lambda lambda_re lambda_im nu_log theta_log log_step",
    "router": r"_(router|routing|gating)(_weights?)?",
    "gate": r"_gate switch wg",
    "head": r"_un_?embed(ding)? _logits?(_?dense)? _classifier _embed_out conv_out head"
    r" .*(?<!multi)(?<!attention)_head",
    "last": r"out output output_layer fc_out readout decoder final final_layer",  # a head if not in a block
    "class": r"cls",  # a head, or a token, which has no kernel
    "embedding": r".*emb(s|eds?|edders?|eddings?)?#_ _stem",
    "token": r"wte wpe pe cls conv_in(it)? positions? positional lookup patch(ify|es)? patch_(proj|conv)\w* pos"
    r" pos\w*_enc\w* _toks? _tokens? _tables? _vocab _codebook _registers?",
    "prompt": r"probe latents? prompts? prefix",  # vectors that are put beside those of tokens
    "not_predicted": r"_(wpe|pe|pos\w*|type\w*|cls|registers?)_",  # embeddings of what no model predicts
    # Layers of attention, and layers that are several matrices side by side.
    "query": r"+(q|query|queries)",
    "key": r"+(k|keys?)",
    "value": r"+(v|values?)",
    "output": r"+(o|out|output) attn_out\w* attn_vec_einsum",
    "heads_first": r"(q|kv|qkv)_einsum",  # (heads, inputs, outputs of a head)
    "qkv": r"+qkv c_attn",
    "qkv_by_head": r"query_key_value",  # GPT-NeoX and BLOOM have q, k, v of each head beside each other
    "kv": r"+kv",
    "latent": r"(linear_|w_?)?(q|kv)_(b|up)(_proj)? w_?u[qkv]",  # of latent attention, to all heads
    "gate_up": r"(w_?)?(gate_(and_)?up|up_gate)(_?proj)? (wi|w1)_fused w12",
    "gates_of_inputs": r"(weight_ih|dense_i)%",  # of a recurrent cell, beside each other
    "gates_of_state": r"(weight_hh|dense_h)%",
    # What a layer lies in, and what any layer is.
    "attention": r".*(att(n|ention)|mha).*",
    "expert": r".*expert.*",
    "moe": r".*moe.*",
    "mlp": r".*(mlp|ffn|feed_?forward).*",
    "general": r"(dense|linear)_general einsum",
    "linear": r"w((_|\d|[qkvoi]).*)? .*(proj|kernel|weight|dense|linear|lora).* up down gate out fc# c_\w+ [qkvo]",
    "low_rank": r"_lora_ a",  # LoRA's first matrix
    "end_of_branch": r"_(o|out|output|down)(_proj)? c_proj proj fc_?2 w_?[2o] lin(ear)?_?2 dense_?2 dense_4h_to_h"
    r" fc_out attn_vec_einsum",
    "array": r"kernel weight weights w param default",  # the array of a layer, without a name of its own
    "outputs_first": r"_weight(_[ih]h%)?",  # (outputs, inputs, window), as in Equinox and PyTorch
    "stack": r"layers blocks stack stages h",
    "wrapper": r"params model module net network transformer",
}
QUERIES, MLPS = ("query", "key", "value"), ("expert", "moe", "mlp")
HEADS = (*QUERIES, "qkv", "kv", "qkv_by_head", "latent")  # whose outputs are those of heads
_CONVOLUTION = re.compile(r"conv(?!er)(?:\w*?([123])d)?")


def _pattern(spellings: str) -> re.Pattern[str]:
    patterns = []
    for spelling in spellings.replace("#", r"\d*").replace("%", r"(_l\d+(_reverse)?)?").split():
        word = spelling.strip("_")
        word = f"(to_|w_?)?{word[1:]}(_?proj)?" if word[0] == "+" else word
        patterns.append("(.*_)?" * (spelling[0] == "_") + word + "(_.*)?" * (spelling[-1] == "_"))
    return re.compile("|".join(patterns))


_PATTERNS = {kind: _pattern(spellings) for kind, spellings in NAMES.items()}


def stands_for(key: str, *kinds: str) -> bool:
    """Whether a key of a path stands for one of the kinds of `NAMES`."""
    return any(_PATTERNS[kind].fullmatch(key) for kind in kinds)


class Name(NamedTuple):
    """The keys of a path in lower case, "multi_head" for MultiHead_0, without numbers and wrappers of a model."""

    keys: tuple[str, ...]
    stacked: bool  # whether one array has all layers: "layers/kernel", not "layers/0/kernel"
    in_layer: bool  # whether it lies in one of several layers, numbered or stacked

    @property
    def leaf(self) -> str:
        return self.keys[-1] if self.keys else ""

    @property
    def layer(self) -> str:
        """The name of the layer, of "attn/q_proj/weight" and "attn/q_proj" q_proj."""
        named = [key for key in self.keys if not stands_for(key, "array")]
        return re.sub(r"_(weight|kernel|w)$", "", named[-1]) if named else ""

    @property
    def depth(self) -> int:
        return sum(not stands_for(key, "array") for key in self.keys)

    @property
    def outputs_first(self) -> bool:
        return self.leaf_is("outputs_first")

    @property
    def is_array(self) -> bool:
        """Whether the leaf has no name of its own beside that of its layer."""
        return self.leaf_is("array", "outputs_first")

    def leaf_is(self, *kinds: str) -> bool:
        return stands_for(self.leaf, *kinds)

    def layer_is(self, *kinds: str) -> bool:
        return stands_for(self.layer, *kinds)

    def near(self, *kinds: str) -> bool:
        return any(stands_for(key, *kinds) for key in self.keys[-3:])

    def within(self, *kinds: str) -> bool:
        return any(stands_for(key, *kinds) for key in self.keys)

    @property
    def is_qkv(self) -> bool:
        """Whether it is query, key and value, one beside the other."""
        in_attention = self.leaf == "in_proj_weight" or self.layer == "in_proj" and self.within("attention")
        return in_attention or self.layer_is("qkv")

    @property
    def is_gate(self) -> bool:
        """Whether it may choose among experts, and is no gate inside an expert."""
        return self.layer_is("gate") and not self.within("expert")

    @property
    def window_axes(self) -> int | None:
        """The number of axes of the window of a convolution by its name, 0 where it has no number; else None."""
        matches = [match for key in self.keys[-3:] if (match := _CONVOLUTION.search(key))]
        return int(matches[-1][1] or 0) if matches else None


def name_of(path: str) -> Name:
    words = [in_words(key) for key in re.split(r"[/.]", path)]
    keys = [re.sub(r"(?<=[a-z])_\d+$", "", word) for word in words]
    named = [key for key in keys if key.strip("~_") and not key.isdigit() and not stands_for(key, "wrapper")]
    nexts = [*words[1:], ""]
    stacked = any(stands_for(key, "stack") and not after.isdigit() for key, after in zip(words, nexts, strict=True))
    outside = words[: -2 if stands_for(words[-1], "array") else -1]
    return Name(tuple(named), stacked, stacked or any(re.search(r"\d", word) for word in outside))


def in_words(key: str) -> str:
    """A key in lower case, with underscores between its words: multi_head for MultiHead."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z]{2,})", "_", key).lower()


# The first row that holds tells the role: which keys of the path have the name, and a condition of `role_by_name`.
ROLES_OF_NAMES = (
    ("other", Name.leaf_is, "constant", "always"),
    ("other", Name.leaf_is, "state", "beside eigenvalues"),
    ("bias", Name.leaf_is, "bias", "not one of a and b"),
    ("norm", Name.leaf_is, "gain", "not one of a and b"),
    ("norm", Name.layer_is, "norm", "no kernel"),
    ("embedding", Name.leaf_is, "prompt", "always"),
    ("router", Name.near, "router", "always"),
    ("head", Name.near, "head", "always"),
    ("head", Name.layer_is, "last", "matrix outside of layers"),
    ("head", Name.layer_is, "class", "array of two axes"),
    ("embedding", Name.near, "embedding", "always"),
    ("embedding", Name.layer_is, "token", "always"),
)


def role_by_name(name: Name, ndim: int, siblings: frozenset[str]) -> str:
    """The role of a leaf by its name; "" where no name tells it.

    Args:
      siblings: the last keys of the leaves beside it.
    """
    conditions = {
        "always": True,
        "beside eigenvalues": any(stands_for(key, "eigenvalues") for key in siblings),
        "not one of a and b": len(name.leaf) != 1 or "a" not in siblings,  # those are any two arrays, or LoRA's
        "no kernel": name.leaf != "kernel",
        "matrix outside of layers": ndim == 2 and name.depth == 1,
        "array of two axes": ndim == 2 and name.is_array,
    }
    for role, is_named, kind, condition in ROLES_OF_NAMES:
        if conditions[condition] and is_named(name, kind):
            return role
    return ""
