"""What names of leaves and layers stand for."""

import pytest

from gdjax.leaf_roles.names import HEADS, NAMES, name_of, role_by_name, stands_for

SPELLINGS = {
    "bias": "b bq b1 b_up beta betas offset bias attn_bias biases bias_ih bias_hh_l0_reverse bias_n",
    "gain": "g gain gamma gammas scale scales ls1 layer_scale",
    "norm": "norm prenorm layer_norm ln ln_f ln1 bn gn2 rms q_norm_1",
    "constant": "a_log dt_bias inv_freq freqs negative_slope time_mix_k time_decay",
    "state": "b c d b_re c_imag",
    "eigenvalues": "a_log lambda_re nu_log log_step",
    "router": "router router_weights routing gating moe_router",
    "gate": "gate shared_gate switch wg",
    "head": "head lm_head policy_head logits logitdense unembed un_embedding classifier embed_out conv_out",
    "last": "out output_layer fc_out readout decoder final",
    "class": "cls",
    "embedding": "emb embed embedder embeddings token_embedding patch_embed stem",
    "token": "wte wpe pe cls conv_in conv_init pos positions lookup patchify patch_proj pos_enc tok cls_token vocab",
    "prompt": "probe latents prompt prefix",
    "not_predicted": "wpe pos_embed token_type cls register_tokens",
    "query": "q query queries q_proj to_q wq w_query",
    "key": "k key keys k_proj to_k wk",
    "value": "v value values v_proj to_v wv",
    "output": "o out output o_proj to_out wo attn_out1 attn_vec_einsum",
    "heads_first": "q_einsum kv_einsum qkv_einsum",
    "qkv": "qkv qkv_proj to_qkv wqkv c_attn",
    "qkv_by_head": "query_key_value",
    "kv": "kv kv_proj to_kv",
    "latent": "q_b_proj kv_b_proj kv_up wkv_b w_uk wuv",
    "gate_up": "gate_up_proj gate_and_up up_gate w_gate_up wi_fused w1_fused w12",
    "gates_of_inputs": "weight_ih weight_ih_l0 dense_i",
    "gates_of_state": "weight_hh weight_hh_l1_reverse dense_h",
    "attention": "attn self_attention mha",
    "expert": "experts shared_expert",
    "moe": "moe sparse_moe_block",
    "mlp": "mlp ffn feed_forward feedforward",
    "general": "dense_general linear_general einsum",
    "linear": "w w_up w1 wq proj kernel in_proj weight dense linear lora_a up fc1 c_fc o",
    "low_rank": "lora lora_a a",
    "end_of_branch": "o o_proj out attn_output down_proj c_proj proj fc2 w2 wo linear2 dense_4h_to_h attn_vec_einsum",
    "array": "kernel weight weights w param default",
    "outputs_first": "weight in_proj_weight weight_ih weight_hh_l0",
    "stack": "layers blocks stack stages h",
    "wrapper": "params model module net network transformer",
}
NOT_SPELLINGS = {
    "bias": "biased b_ bias_x",
    "gain": "rescale gains",
    "norm": "normal normalized",
    "router": "router_x",
    "gate": "gate_x gates",
    "head": "multi_head attention_head heads",
    "embedding": "member remembered",
    "token": "token_mixer patch_merging",
    "query": "to_query_x wqproj_",
    "output": "outer",
    "latent": "q_c kv_down",
    "general": "dense",
    "linear": "tau mix",
    "low_rank": "b",
}


def test_every_kind_of_name_has_its_spellings():
    assert list(SPELLINGS) == list(NAMES)
    missed = {kind: [key for key in keys.split() if not stands_for(key, kind)] for kind, keys in SPELLINGS.items()}
    assert {kind: keys for kind, keys in missed.items() if keys} == {}
    taken = {kind: [key for key in keys.split() if stands_for(key, kind)] for kind, keys in NOT_SPELLINGS.items()}
    assert {kind: keys for kind, keys in taken.items() if keys} == {}


ROLES_OF_NAMES = [
    ("s/A_log", 1, "", "other"), ("s/C", 3, "lambda_re", "other"), ("s/C", 3, "", ""), ("x/b", 1, "", "bias"),
    ("lora/b", 2, "a", ""), ("ln/scale", 1, "", "norm"), ("ln/kernel", 2, "", ""),
    ("map/probe", 3, "", "embedding"), ("moe/router/kernel", 2, "", "router"),
    ("lm_head/kernel", 2, "", "head"), ("out/kernel", 2, "", "head"),
    ("attn/out/kernel", 2, "", ""), ("cls/kernel", 2, "", "head"), ("cls", 3, "", "embedding"),
    ("embed/kernel", 2, "", "embedding"), ("wte/weight", 2, "", "embedding"), ("mlp/up/kernel", 2, "", ""),
]  # fmt: skip


def test_roles_of_names():
    for path, ndim, siblings, role in ROLES_OF_NAMES:
        assert role_by_name(name_of(path), ndim, frozenset(siblings.split())) == role, path


def test_the_window_of_a_convolution():
    names = {"conv/kernel": 0, "Conv2d_0/kernel": 2, "conv_3/weight": 0, "converter/kernel": None, "up/kernel": None}
    assert {path: name_of(path).window_axes for path in names} == names


def test_parts_of_attention():
    paths = ("q_proj/kernel", "key", "v", "qkv", "attn/in_proj/kernel", "mixer/in_proj/kernel", "kv_b_proj/weight")
    names = [name_of(path) for path in paths]
    assert [name.layer_is("query", "key") for name in names] == [True, True, False, False, False, False, False]
    assert [name.is_qkv for name in names] == [False, False, False, True, True, False, False]
    assert [name.layer_is(*HEADS) for name in names] == [True, True, True, True, False, False, True]
    assert [name_of(path).is_gate for path in ("mlp/gate/kernel", "experts/0/gate/kernel")] == [True, False]


@pytest.mark.parametrize(
    ("path", "keys", "layer"),
    [
        ("params/MultiHeadAttention_0/query/kernel", "multi_head_attention query kernel", "query"),
        ("LlamaRMSNorm_1/scale", "llamarms_norm scale", "scale"),
        ("model.layers.0.self_attn.q_proj.weight", "layers self_attn q_proj weight", "q_proj"),
        ("attn/in_proj_weight", "attn in_proj_weight", "in_proj"),
        ("mlp/~/linear_0/w", "mlp linear w", "linear"),
        ("A_log", "a_log", "a_log"),
        ("0/1", "", ""),
    ],
)
def test_names(path: str, keys: str, layer: str):
    name = name_of(path)
    assert " ".join(name.keys) == keys and name.layer == layer


def test_near_are_the_last_three_names():
    found = {path: name_of(path) for path in ("head/up/kernel", "head/mlp/up/kernel")}
    assert [name.near("head") for name in found.values()] == [True, False]
    assert all(name.within("head") for name in found.values())
