"""The roles that leaves of real models have: every table is written by hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import gdjax
from tests.support import relaxed

KEY = jax.random.key(0)
SHAPE = jax.ShapeDtypeStruct


def table(params: Any, overrides: Any = None) -> str:
    """For each leaf its path, role and matrices: number x rows x columns."""
    lines = [f"{row.path} {row.role} {row.matrices}".rstrip() for row in gdjax.roles(params, overrides)]
    return "\n".join(sorted(lines))


def written(text: str) -> str:
    return "\n".join(sorted(line.strip() for line in text.strip().splitlines()))


def of_linen(module: linen.Module, *args: Any) -> Any:
    with relaxed():  # Flax promotes ranks
        return jax.eval_shape(module.init, KEY, *args)["params"]


def of_nnx(make: Any) -> Any:
    return nnx.state(nnx.eval_shape(make), nnx.Param)


def of_equinox(make: Any, *args: Any) -> Any:
    model, _ = eqx.filter_eval_shape(eqx.nn.make_with_state(make), *args)
    return eqx.filter(model, lambda x: isinstance(x, SHAPE))


def of_shapes(shapes: dict[str, tuple[int, ...]]) -> Any:
    """A nested dict of the shapes of paths."""
    tree: Any = {}
    for path, shape in shapes.items():
        *places, last = path.split("/")
        part = tree
        for key in places:
            part = part.setdefault(key, {})
        part[last] = SHAPE(shape, jnp.float32)
    return tree


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x: Any, _: Any = None) -> Any:
        x = x + linen.MultiHeadDotProductAttention(4, use_bias=False)(linen.LayerNorm()(x))
        return x + linen.Dense(32)(linen.gelu(linen.Dense(128)(linen.LayerNorm()(x)))), None


class LinenGPT(linen.Module):
    scanned: bool = False
    head: str | None = "lm_head"

    @linen.compact
    def __call__(self, tokens: Any) -> Any:
        x = linen.Embed(100, 32)(tokens) + self.param("pos_embed", linen.initializers.normal(), (16, 32))
        if self.scanned:
            kinds = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 3}
            x, _ = linen.scan(LinenBlock, **kinds)(name="layers")(x, None)
        else:
            x, _ = LinenBlock()(x)
        return linen.Dense(100, name=self.head, use_bias=self.head is not None)(linen.LayerNorm()(x))


TOKENS = jnp.zeros((2, 16), int)
AROUND = """
    Embed_0/embedding embedding
    LayerNorm_0/bias bias
    LayerNorm_0/scale norm
    lm_head/bias bias
    lm_head/kernel head
    pos_embed embedding
"""


def linen_block(place: str, number: str = "") -> str:
    attention = "MultiHeadDotProductAttention_0"
    return "\n".join(f"{place}/{line.strip()}" for line in f"""
        Dense_0/bias bias
        Dense_0/kernel matrix {number}128 x 32
        Dense_1/bias bias
        Dense_1/kernel matrix {number}32 x 128
        LayerNorm_0/bias bias
        LayerNorm_0/scale norm
        LayerNorm_1/bias bias
        LayerNorm_1/scale norm
        {attention}/key/kernel matrix {number}32 x 32
        {attention}/out/kernel matrix {number}32 x 32
        {attention}/query/kernel matrix {number}32 x 32
        {attention}/value/kernel matrix {number}32 x 32
    """.strip().splitlines())  # fmt: skip


def test_a_transformer_of_linen():
    params = of_linen(LinenGPT(), TOKENS)
    assert table(params) == written(AROUND + linen_block("LinenBlock_0"))
    found = {row.path: (row.rows, row.columns) for row in gdjax.roles(params)}
    attention = "LinenBlock_0/MultiHeadDotProductAttention_0"
    assert found[f"{attention}/query/kernel"] == ((0,), (1, 2)) and found[f"{attention}/out/kernel"] == ((0, 1), (2,))


def test_a_transformer_of_linen_whose_layers_are_scanned():
    params = of_linen(LinenGPT(scanned=True), TOKENS)
    assert table(params) == written(AROUND + linen_block("layers", "3 x "))
    found = {row.path: (row.rows, row.columns) for row in gdjax.roles(params)}
    attention = "layers/MultiHeadDotProductAttention_0"
    assert found[f"{attention}/query/kernel"] == ((1,), (2, 3)) and found[f"{attention}/out/kernel"] == ((1, 2), (3,))


def test_a_head_without_a_name_is_known_by_the_vocabulary():
    params = of_linen(LinenGPT(head=None), TOKENS)
    assert params["Dense_0"]["kernel"].shape == (32, 100)
    assert "Dense_0/kernel head" in table(params).splitlines()


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.ln1 = nnx.LayerNorm(32, use_bias=False, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(4, 32, decode=False, normalize_qk=True, rngs=rngs)
        self.up = nnx.Linear(32, 128, rngs=rngs)
        self.down = nnx.LoRALinear(128, 32, lora_rank=4, rngs=rngs)


class NnxGPT(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.wte, self.wpe = nnx.Embed(100, 32, rngs=rngs), nnx.Embed(16, 32, rngs=rngs)
        self.block = NnxBlock(rngs)
        self.layers = nnx.vmap(NnxBlock, in_axes=0)(rngs.split(3))
        self.ln_f = nnx.RMSNorm(32, rngs=rngs)
        self.lm_head = nnx.Linear(32, 100, rngs=rngs)


def nnx_block(place: str, number: str = "") -> str:
    return "\n".join(f"{place}/{line.strip()}" for line in f"""
        ln1/scale norm
        attn/key/kernel matrix {number}32 x 32
        attn/key/bias bias
        attn/key_ln/scale norm
        attn/query/kernel matrix {number}32 x 32
        attn/query/bias bias
        attn/query_ln/scale norm
        attn/value/kernel matrix {number}32 x 32
        attn/value/bias bias
        attn/out/kernel matrix {number}32 x 32
        attn/out/bias bias
        up/kernel matrix {number}32 x 128
        up/bias bias
        down/kernel matrix {number}128 x 32
        down/bias bias
        down/lora/lora_a matrix {number}128 x 4
        down/lora/lora_b matrix {number}4 x 32
    """.strip().splitlines())  # fmt: skip


@pytest.mark.skipif(not hasattr(nnx.Rngs, "split"), reason="an older Flax")
def test_a_transformer_of_nnx_beside_a_stack():
    around = """
        wte/embedding embedding
        wpe/embedding embedding
        ln_f/scale norm
        lm_head/kernel head
        lm_head/bias bias
    """
    params = of_nnx(lambda: NnxGPT(nnx.Rngs(0)))
    want = written(around + nnx_block("block") + "\n" + nnx_block("layers", "3 x "))
    assert table(params) == want
    assert table(nnx.to_pure_dict(params)) == want


class EqxBlock(eqx.Module):
    attn: Any
    norm: Any
    mlp: Any
    scale_free: Any

    def __init__(self, key: Any):
        self.attn = eqx.nn.MultiheadAttention(4, 32, use_output_bias=True, key=key)
        self.norm = eqx.nn.LayerNorm(32)
        self.mlp = eqx.nn.MLP(32, 32, 128, 1, key=key)
        self.scale_free = eqx.nn.LayerNorm(32)  # a name that tells nothing


class EqxGPT(eqx.Module):
    embed: Any
    first: Any
    layers: Any
    head: Any

    def __init__(self, key: Any):
        self.embed = eqx.nn.Embedding(100, 32, key=key)
        self.first = EqxBlock(key)
        self.layers = eqx.filter_vmap(EqxBlock)(jax.random.split(key, 3))
        self.head = eqx.nn.Linear(32, 100, key=key)


def eqx_block(place: str, number: str = "") -> str:
    return "\n".join(f"{place}/{line.strip()}" for line in f"""
        attn/query_proj/weight matrix {number}32 x 32
        attn/key_proj/weight matrix {number}32 x 32
        attn/value_proj/weight matrix {number}32 x 32
        attn/output_proj/weight matrix {number}32 x 32
        attn/output_proj/bias bias
        norm/weight norm
        norm/bias bias
        mlp/layers/0/weight matrix {number}32 x 128
        mlp/layers/0/bias bias
        mlp/layers/1/weight matrix {number}128 x 32
        mlp/layers/1/bias bias
        scale_free/weight norm
        scale_free/bias bias
    """.strip().splitlines())  # fmt: skip


def test_a_transformer_of_equinox_beside_a_stack():
    around = """
        embed/weight embedding
        head/weight head
        head/bias bias
    """
    params = of_equinox(EqxGPT, KEY)
    assert table(params) == written(around + eqx_block("first") + "\n" + eqx_block("layers", "3 x "))
    found = {row.path: (row.rows, row.columns) for row in gdjax.roles(params)}
    assert found["first/mlp/layers/0/weight"] == ((1,), (0,)) and found["layers/mlp/layers/0/weight"] == ((2,), (1,))


class LinenConvNet(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.BatchNorm(use_running_average=True)(linen.Conv(8, (3, 3))(x))
        x = linen.Conv(16, (5, 3))(x)
        x = linen.Conv(16, (3, 3), feature_group_count=16)(x)
        x = linen.GroupNorm(4)(linen.Conv(32, (1, 1), use_bias=False)(x))
        x = linen.ConvTranspose(8, (2, 2))(x)
        return linen.Dense(10, name="classifier")(linen.Dense(64)(x.mean((1, 2))))


def test_a_convolutional_network_of_linen():
    assert table(of_linen(LinenConvNet(), jnp.zeros((2, 8, 8, 3)))) == written("""
        BatchNorm_0/bias bias
        BatchNorm_0/scale norm
        Conv_0/bias bias
        Conv_0/kernel embedding
        Conv_1/bias bias
        Conv_1/kernel matrix 120 x 16
        Conv_2/bias bias
        Conv_2/kernel other
        Conv_3/kernel matrix 16 x 32
        ConvTranspose_0/bias bias
        ConvTranspose_0/kernel matrix 128 x 8
        Dense_0/bias bias
        Dense_0/kernel matrix 8 x 64
        GroupNorm_0/bias bias
        GroupNorm_0/scale norm
        classifier/bias bias
        classifier/kernel head
    """)


class NnxConvNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(4, 8, (7, 7), rngs=rngs)
        self.bn1 = nnx.BatchNorm(8, rngs=rngs)
        self.downsample = nnx.Conv(8, 16, (1, 1), use_bias=False, rngs=rngs)
        self.conv3d = nnx.Conv(16, 16, (3, 3, 3), rngs=rngs)
        self.conv1d = nnx.Conv(16, 32, (5,), rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)


def test_a_convolutional_network_of_nnx():
    assert table(of_nnx(lambda: NnxConvNet(nnx.Rngs(0)))) == written("""
        stem/kernel embedding
        stem/bias bias
        bn1/scale norm
        bn1/bias bias
        downsample/kernel matrix 8 x 16
        conv3d/kernel matrix 432 x 16
        conv3d/bias bias
        conv1d/kernel matrix 80 x 32
        conv1d/bias bias
        head/kernel head
        head/bias bias
    """)


def eqx_conv_net(key: Any) -> Any:
    nn = eqx.nn
    return {
        "conv1": nn.Conv2d(3, 8, 3, key=key),
        "bn1": nn.BatchNorm(8, "batch", mode="batch"),
        "conv2": nn.Conv2d(8, 16, (5, 3), key=key),
        "depthwise": nn.Conv2d(16, 16, 3, groups=16, key=key),
        "wave": nn.Conv1d(16, 32, 5, use_bias=False, key=key),
        "conv1d": nn.Conv1d(16, 32, 5, key=key),
        "up": nn.ConvTranspose2d(32, 16, 2, key=key),
        "gn": nn.GroupNorm(4, 16),
        "mlp": nn.Sequential([nn.Linear(16, 64, key=key), nn.Lambda(jax.nn.relu), nn.Linear(64, 64, key=key)]),
        "classifier": nn.Linear(64, 10, key=key),
    }


def test_a_convolutional_network_of_equinox():
    model = of_equinox(eqx_conv_net, KEY)
    assert table(model) == written("""
        bn1/weight norm
        bn1/bias bias
        conv1/weight embedding
        conv1/bias bias
        conv2/weight matrix 120 x 16
        conv2/bias bias
        depthwise/weight other
        depthwise/bias bias
        wave/weight matrix 32 x 5 x 16
        conv1d/weight matrix 80 x 32
        conv1d/bias bias
        up/weight matrix 128 x 16
        up/bias bias
        gn/weight norm
        gn/bias bias
        mlp/layers/0/weight matrix 16 x 64
        mlp/layers/0/bias bias
        mlp/layers/2/weight matrix 64 x 64
        mlp/layers/2/bias bias
        classifier/weight head
        classifier/bias bias
    """)


class LinenViT(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Conv(32, (16, 16), strides=(16, 16), name="embedding")(x).reshape(2, -1, 32)
        cls = self.param("cls", linen.initializers.zeros, (1, 1, 32))
        registers = self.param("register_tokens", linen.initializers.zeros, (4, 32))
        x = jnp.concatenate([jnp.tile(cls, (2, 1, 1)), jnp.tile(registers, (2, 1, 1)), x], 1)
        x = x + self.param("pos_embedding", linen.initializers.normal(), (1, x.shape[1], 32))
        x = x * self.param("layer_scale", linen.initializers.ones, (32,))
        x, _ = LinenBlock()(x)
        return linen.Dense(10, name="head")(linen.LayerNorm(name="norm")(x[:, 0]))


def test_a_vision_transformer():
    assert table(of_linen(LinenViT(), jnp.zeros((2, 32, 32, 3)))) == written(
        """
        cls embedding
        embedding/bias bias
        embedding/kernel embedding
        head/bias bias
        head/kernel head
        layer_scale norm
        norm/bias bias
        norm/scale norm
        pos_embedding embedding
        register_tokens embedding
    """
        + linen_block("LinenBlock_0")
    )


class LinenMoE(linen.Module):
    """A mixture of four experts, beside one that all tokens share."""

    gate: str = "router"

    @linen.compact
    def __call__(self, x: Any) -> Any:
        weights = linen.softmax(linen.Dense(4, use_bias=False, name=self.gate)(x))
        init = linen.initializers.lecun_normal()
        up = self.param("experts_up", init, (4, 16, 64))
        gate = self.param("experts_gate", init, (4, 16, 64))
        down = self.param("experts_down", init, (4, 64, 16))
        h = linen.silu(jnp.einsum("bd,edf->ebf", x, gate)) * jnp.einsum("bd,edf->ebf", x, up)
        shared = linen.Dense(16, name="down_proj")(linen.Dense(64, name="gate_proj")(x))
        return jnp.einsum("ebf,efd,be->bd", h, down, weights) + shared


@pytest.mark.parametrize("gate", ["router", "gate"])
def test_a_mixture_of_experts(gate: str):
    assert table(of_linen(LinenMoE(gate), jnp.zeros((2, 16)))) == written(f"""
        {gate}/kernel router
        experts_up matrix 4 x 16 x 64
        experts_gate matrix 4 x 16 x 64
        experts_down matrix 4 x 64 x 16
        gate_proj/kernel matrix 16 x 64
        gate_proj/bias bias
        down_proj/kernel matrix 64 x 16
        down_proj/bias bias
    """)


def test_a_scanned_mixture_of_experts():
    scanned = linen.scan(Scanned, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    params = of_linen(scanned(name="layers"), jnp.zeros((2, 16)), None)
    assert table(params) == written("""
        moe/router/kernel router
        moe/experts_up matrix 12 x 16 x 64
        moe/experts_gate matrix 12 x 16 x 64
        moe/experts_down matrix 12 x 64 x 16
        moe/gate_proj/kernel matrix 3 x 16 x 64
        moe/gate_proj/bias bias
        moe/down_proj/kernel matrix 3 x 64 x 16
        moe/down_proj/bias bias
    """)


class Scanned(linen.Module):
    @linen.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return x + LinenMoE(name="moe")(x), None


def test_the_names_of_gpt_2():
    """Flax's kernels are (inputs, outputs)."""
    params = of_shapes({
        "transformer/wte/embedding": (100, 32), "transformer/wpe/embedding": (16, 32),
        "transformer/h/0/ln_1/scale": (32,), "transformer/h/0/ln_1/bias": (32,),
        "transformer/h/0/attn/c_attn/kernel": (32, 96), "transformer/h/0/attn/c_attn/bias": (96,),
        "transformer/h/0/attn/c_proj/kernel": (32, 32), "transformer/h/0/attn/c_proj/bias": (32,),
        "transformer/h/0/mlp/c_fc/kernel": (32, 128), "transformer/h/0/mlp/c_fc/bias": (128,),
        "transformer/h/0/mlp/c_proj/kernel": (128, 32), "transformer/h/0/mlp/c_proj/bias": (32,),
        "transformer/ln_f/scale": (32,), "transformer/ln_f/bias": (32,),
    })  # fmt: skip
    want = """
        transformer/wte/embedding embedding
        transformer/wpe/embedding embedding
        transformer/h/0/ln_1/scale norm
        transformer/h/0/ln_1/bias bias
        transformer/h/0/attn/c_attn/kernel matrix 3 x 32 x 32
        transformer/h/0/attn/c_attn/bias bias
        transformer/h/0/attn/c_proj/kernel matrix 32 x 32
        transformer/h/0/attn/c_proj/bias bias
        transformer/h/0/mlp/c_fc/kernel matrix 32 x 128
        transformer/h/0/mlp/c_fc/bias bias
        transformer/h/0/mlp/c_proj/kernel matrix 128 x 32
        transformer/h/0/mlp/c_proj/bias bias
        transformer/ln_f/scale norm
        transformer/ln_f/bias bias
    """
    assert table(params) == written(want)


@pytest.mark.parametrize("separator", ["/", "."])
def test_the_names_of_llama(separator: str):
    """Weights of PyTorch are (outputs, inputs); a state dict has all of a path in one key."""
    shapes = {
        "model/embed_tokens/weight": (100, 32),
        "model/layers/0/input_layernorm/weight": (32,),
        "model/layers/0/post_attention_layernorm/weight": (32,),
        "model/layers/0/self_attn/q_proj/weight": (64, 32),
        "model/layers/0/self_attn/q_norm/weight": (8,),
        "model/layers/0/self_attn/k_proj/weight": (16, 32),
        "model/layers/0/self_attn/k_proj/bias": (16,),
        "model/layers/0/self_attn/v_proj/weight": (16, 32),
        "model/layers/0/self_attn/o_proj/weight": (32, 64),
        "model/layers/0/mlp/gate_proj/weight": (96, 32),
        "model/layers/0/mlp/up_proj/weight": (96, 32),
        "model/layers/0/mlp/down_proj/weight": (32, 96),
        "model/layers/1/mlp/gate/weight": (20, 32),
        "model/layers/1/mlp/experts/0/gate_proj/weight": (24, 32),
        "model/layers/1/mlp/experts/0/down_proj/weight": (32, 24),
        "model/layers/1/mlp/shared_expert_gate/weight": (1, 32),
        "model/layers/1/mlp/shared_expert/gate_up_proj/weight": (48, 32),
        "model/norm/weight": (32,),
        "lm_head/weight": (100, 32),
    }
    want = written("""
        model/embed_tokens/weight embedding
        model/layers/0/input_layernorm/weight norm
        model/layers/0/post_attention_layernorm/weight norm
        model/layers/0/self_attn/q_proj/weight matrix 32 x 64
        model/layers/0/self_attn/q_norm/weight norm
        model/layers/0/self_attn/k_proj/weight matrix 32 x 16
        model/layers/0/self_attn/k_proj/bias bias
        model/layers/0/self_attn/v_proj/weight matrix 32 x 16
        model/layers/0/self_attn/o_proj/weight matrix 64 x 32
        model/layers/0/mlp/gate_proj/weight matrix 32 x 96
        model/layers/0/mlp/up_proj/weight matrix 32 x 96
        model/layers/0/mlp/down_proj/weight matrix 96 x 32
        model/layers/1/mlp/gate/weight router
        model/layers/1/mlp/experts/0/gate_proj/weight matrix 32 x 24
        model/layers/1/mlp/experts/0/down_proj/weight matrix 24 x 32
        model/layers/1/mlp/shared_expert_gate/weight other
        model/layers/1/mlp/shared_expert/gate_up_proj/weight matrix 2 x 32 x 24
        model/norm/weight norm
        lm_head/weight head
    """)
    if separator == ".":
        flat = {path.replace("/", "."): SHAPE(shape, jnp.float32) for path, shape in shapes.items()}
        assert table(flat).replace(".", "/") == want
    else:
        assert table(of_shapes(shapes)) == want


def test_a_state_space_model():
    params = of_shapes({
        "layers/mixer/in_proj/kernel": (4, 32, 128), "layers/mixer/conv1d/kernel": (4, 4, 1, 64),
        "layers/mixer/conv1d/bias": (4, 64), "layers/mixer/x_proj/kernel": (4, 64, 34),
        "layers/mixer/dt_proj/kernel": (4, 2, 64), "layers/mixer/dt_bias": (4, 64), "layers/mixer/A_log": (4, 64, 16),
        "layers/mixer/D": (4, 64), "layers/mixer/out_proj/kernel": (4, 64, 32), "layers/norm/w": (4, 32),
    })  # fmt: skip
    assert table(params) == written("""
        layers/mixer/in_proj/kernel matrix 4 x 32 x 128
        layers/mixer/conv1d/kernel other
        layers/mixer/conv1d/bias bias
        layers/mixer/x_proj/kernel matrix 4 x 64 x 34
        layers/mixer/dt_proj/kernel matrix 4 x 2 x 64
        layers/mixer/dt_bias other
        layers/mixer/A_log other
        layers/mixer/D other
        layers/mixer/out_proj/kernel matrix 4 x 64 x 32
        layers/norm/w norm
    """)


def test_recurrent_cells():
    """Gates that lie beside each other are matrices of their own."""
    params = of_equinox(lambda k: {"lstm": eqx.nn.LSTMCell(8, 16, key=k), "cell": eqx.nn.GRUCell(8, 16, key=k)}, KEY)
    assert table(params) == written("""
        lstm/weight_ih matrix 4 x 8 x 16
        lstm/weight_hh matrix 4 x 16 x 16
        lstm/bias bias
        cell/weight_ih matrix 3 x 8 x 16
        cell/weight_hh matrix 3 x 16 x 16
        cell/bias bias
        cell/bias_n bias
    """)


def test_the_names_of_maxtext_need_overrides():
    """Its layers lie along axis 1."""
    place = "decoder/layers"
    params = of_shapes({
        f"{place}/self_attention/query/kernel": (32, 3, 4, 8), f"{place}/self_attention/out/kernel": (4, 3, 8, 32),
        f"{place}/mlp/wi_0/kernel": (32, 3, 64), f"{place}/pre_self_attention_layer_norm/scale": (32, 3),
    })  # fmt: skip
    overrides = {
        "query|key|value": gdjax.Matrix(0, (2, 3)), "out/kernel": gdjax.Matrix((0, 2), 3),
        "mlp.*kernel": gdjax.Matrix(0, 2),
    }  # fmt: skip
    assert table(params, overrides) == written(f"""
        {place}/self_attention/query/kernel matrix 3 x 32 x 32
        {place}/self_attention/out/kernel matrix 3 x 32 x 32
        {place}/mlp/wi_0/kernel matrix 3 x 32 x 64
        {place}/pre_self_attention_layer_norm/scale norm
    """)


MODELS = {
    "linen": lambda: of_linen(LinenGPT(), TOKENS),
    "linen, no name": lambda: of_linen(LinenGPT(head=None), TOKENS),
    "linen, scanned": lambda: of_linen(LinenGPT(scanned=True), TOKENS),
    "nnx": lambda: of_nnx(lambda: NnxBlock(nnx.Rngs(0))),
    "nnx, convolutions": lambda: of_nnx(lambda: NnxConvNet(nnx.Rngs(0))),
    "equinox": lambda: of_equinox(EqxGPT, KEY),
    "equinox, convolutions": lambda: of_equinox(eqx_conv_net, KEY),
    "vision": lambda: of_linen(LinenViT(), jnp.zeros((2, 32, 32, 3))),
    "experts": lambda: of_linen(LinenMoE("gate"), jnp.zeros((2, 16))),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_method_that_sees_only_the_matrices_finds_the_same_axes(model: str):
    params = MODELS[model]()
    route = gdjax.matrices_by_role()
    whole = route.roles("tx", params)
    structure = jax.tree.structure(params)
    leaves = jax.tree.leaves(params)
    assert len(whole) == len(leaves)
    for hide in (lambda i: not isinstance(whole[i], gdjax.Matrix), lambda i: i % 2 == 0, lambda i: i % 3 > 0):
        seen = structure.unflatten([gdjax.MaskedNode() if hide(i) else x for i, x in enumerate(leaves)])
        kept = [role for i, role in enumerate(whole) if not hide(i)]
        for before, now in zip(kept, route.roles("tx", seen), strict=True):
            assert now == before or not isinstance(before, gdjax.Matrix)


@pytest.mark.parametrize("model", MODELS)
def test_each_leaf_goes_one_way(model: str):
    """Muon has a momentum for each matrix, Adam two moments for each other leaf."""
    params = MODELS[model]()
    tx = gdjax.muon(0.1, adam_learning_rate=0.01, muon_weight_dimension_numbers=gdjax.matrices_by_role())
    state = jax.eval_shape(tx.init, params)
    roles = gdjax.roles(params)["role"]
    matrices = len(jax.tree.leaves(gdjax.tree.get(state, "MuonState").mu))
    others = len(jax.tree.leaves(gdjax.tree.get(state, "ScaleByAdamState").mu))
    assert matrices == roles.count("matrix") > 0 and matrices + others == len(roles)
    updates, _ = jax.eval_shape(tx.update, params, state, params)
    by_tree = gdjax.muon(0.1, adam_learning_rate=0.01, muon_weight_dimension_numbers=gdjax.matrices_by_role()(params))
    assert jax.eval_shape(by_tree.init, params) == state
    assert jax.tree.map(lambda x: x.shape, updates) == jax.tree.map(lambda x: x.shape, params)
