"""Writes matrix.npz: points that others' matrix optimizers visit on a small problem. `matrix_notes.md` describes it.

    python tests/golden/make_matrix.py CHECKOUTS

needs numpy, torch 2.13.0, pytorch_optimizer 4.1.0 and opt_einsum 3.4.0, and CHECKOUTS, a folder with
clones of the repositories of `COMMITS`. Only their code is called; none of it is here.

The arrays of matrix.npz: "problem/<leaf>/<array>" state the problem (see `matrix_problem.py`); "<run>/<leaf>" are the
points after `kept` steps, float32, shape (len(kept), *leaf); "<run>/<leaf>:<name>" is random noise that the run drew
for that leaf; `versions` says what wrote them.
With --check it prints, for each run, how far x0 + 1e-6 leads from it, and how far the same run in float64.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torch.compile would only need a compiler.

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import matrix_problem as mp

COMMITS = {
    "SOAP": "nikhilvyas/SOAP a1e5535",
    "psgd_torch": "lixilinx/psgd_torch a8616f1",
    "Muon": "KellerJordan/Muon 857d1ad",
    "dion": "microsoft/dion 0a059a4",
    "optimizers": "facebookresearch/optimizers f606606",
    "scion": "LIONS-EPFL/scion f58a393",
    "NorMuon": "zichongli5/NorMuon d45c9a4",
    "modded-nanogpt": "KellerJordan/modded-nanogpt f411b3d",
    "KL-Methods": "yorkerlin/KL-Methods a02e622",
}
CHECKOUTS = Path()
RUNS = {}
NOISE = {}  # What a run drew at random, as "<run>/<leaf>:<name>".


def run(name, leaves=mp.MATRICES):
    """Registers a function params -> optimizer, which is called once a leaf."""

    def register(make):
        RUNS[name] = (make, leaves)
        return make

    return register


def load(path, name):
    """The module in a file of the checkouts."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, CHECKOUTS / path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@contextlib.contextmanager
def full_precision():
    """What the code casts to bfloat16 keeps its dtype (or becomes float32)."""
    half, method = torch.bfloat16, torch.Tensor.bfloat16
    torch.bfloat16, torch.Tensor.bfloat16 = torch.float32, lambda self: self.clone()
    try:
        yield
    finally:
        torch.bfloat16, torch.Tensor.bfloat16 = half, method


def trajectory(name, leaf, dtype=torch.float32, shift=0.0, store=True):
    make, _ = RUNS[name]
    torch.manual_seed(0)
    p = {k: torch.tensor(v).to(dtype) for k, v in mp.make()[leaf].items()}
    x = torch.nn.Parameter(p["x0"] + shift)
    points = []
    with full_precision():
        optimizer = make([x])
        for t in range(mp.STEPS):
            x.grad = mp.gradient(p, x.detach(), t)
            optimizer.step()
            points.append(x.detach().numpy().copy())
    if store:
        for key, value in getattr(optimizer, "drawn", {}).items():
            NOISE[f"{name}/{leaf}:{key}"] = np.asarray(value, np.float32)
    return np.stack(points)[[k - 1 for k in mp.KEPT]]


# SOAP ----------------------------------------------------------------------------------------------------------------

for f in (1, 5):

    @run(f"soap/authors_f{f}", mp.NEAR)
    def _(params, f=f):
        return load("SOAP/soap.py", "authors_soap").SOAP(
            params, lr=0.01, betas=(0.95, 0.9), eps=1e-8, weight_decay=0.0, precondition_frequency=f
        )


@run("soap/authors_vector", ("vector",))
def _(params):
    return load("SOAP/soap.py", "authors_soap").SOAP(params, lr=0.01, betas=(0.95, 0.9), weight_decay=0.0)


@run("soap/authors_decay", mp.NEAR)
def _(params):
    return load("SOAP/soap.py", "authors_soap").SOAP(
        params,
        lr=0.01,
        betas=(0.9, 0.95),
        shampoo_beta=0.8,
        eps=1e-3,
        weight_decay=0.1,
        precondition_frequency=2,
        correct_bias=False,
    )


@run("soap/pytorch_optimizer_f1", mp.NEAR)
def _(params):
    import pytorch_optimizer

    return pytorch_optimizer.SOAP(params, lr=0.01, betas=(0.95, 0.9), weight_decay=0.0, precondition_frequency=1)


@run("soap/distributed_shampoo_f1", mp.NEAR)
def _(params):
    return distributed_shampoo(
        params,
        betas=(0.95, 0.9),
        epsilon=1e-2,
        preconditioner_config=("EigenvalueCorrectedShampooPreconditionerConfig", {}),
    )


# Shampoo -------------------------------------------------------------------------------------------------------------


def distributed_shampoo(params, preconditioner_config=None, grafting_config=None, lr=0.01, **settings):
    path = str(CHECKOUTS / "optimizers")
    if path not in sys.path:
        sys.path.insert(0, path)
    from distributed_shampoo import distributed_shampoo as ds
    from distributed_shampoo import shampoo_types

    for key, config in (("preconditioner_config", preconditioner_config), ("grafting_config", grafting_config)):
        if config:
            settings[key] = getattr(shampoo_types, config[0])(**config[1])
    # Else it takes a small matrix for one long vector.
    shape = shampoo_types.SingleDeviceDistributedConfig(target_parameter_dimensionality=params[0].ndim)
    logging.disable(logging.WARNING)
    return ds.DistributedShampoo(params, lr=lr, distributed_config=shape, **settings)


SHAMPOO = {
    "sum_f1": dict(lr=0.1, betas=(0.0, 1.0), epsilon=1e-4),
    "sum_f5": dict(lr=0.1, betas=(0.0, 1.0), epsilon=1e-4, precondition_frequency=5),
    "mean_f1": dict(betas=(0.9, 0.95), epsilon=1e-4),
    "mean_f5": dict(betas=(0.9, 0.95), epsilon=1e-4, precondition_frequency=5, start_preconditioning_step=5),
    "graft_adam": dict(
        betas=(0.9, 0.95),
        epsilon=1e-4,
        grafting_config=("AdamPreconditionerConfig", dict(beta2=0.95, epsilon=1e-8)),
    ),
    "graft_adam_f5": dict(
        betas=(0.9, 0.95),
        epsilon=1e-4,
        precondition_frequency=5,
        start_preconditioning_step=5,
        grafting_config=("AdamPreconditionerConfig", dict(beta2=0.95, epsilon=1e-8)),
    ),
    "graft_sgd": dict(betas=(0.9, 0.95), epsilon=1e-4, grafting_config=("SGDPreconditionerConfig", {})),
    "root2_decay": dict(
        betas=(0.9, 0.95),
        epsilon=1e-3,
        weight_decay=0.1,
        preconditioner_config=(
            "RootInvShampooPreconditionerConfig",
            dict(inverse_exponent_override={2: 0.5, 1: 1.0}),
        ),
    ),
}
for name, settings in SHAMPOO.items():
    # The statistics of a vector have rank one at first; only these runs are calm all the same.
    @run(f"shampoo/distributed_{name}", (*mp.MATRICES, "vector") if name in ("mean_f1", "graft_sgd") else mp.MATRICES)
    def _(params, settings=settings):
        return distributed_shampoo(params, **settings)


for f in (1, 5):

    @run(f"shampoo/pytorch_optimizer_f{f}")
    def _(params, f=f):
        import pytorch_optimizer

        return pytorch_optimizer.Shampoo(params, lr=0.1, matrix_eps=1e-4, preconditioning_compute_steps=f)


@run("shampoo/scalable_none")
def _(params):
    import pytorch_optimizer

    return pytorch_optimizer.ScalableShampoo(
        params,
        lr=0.01,
        betas=(0.9, 0.95),
        moving_average_for_momentum=True,
        start_preconditioning_step=1,
        preconditioning_compute_steps=1,
        shape_interpretation=False,
        graft_type=0,
        nesterov=False,
        matrix_eps=1e-4,
        use_svd=True,
    )


@run("shampoo/scalable_rmsprop")
def _(params):
    import pytorch_optimizer

    return pytorch_optimizer.ScalableShampoo(
        params,
        lr=0.01,
        betas=(0.9, 0.95),
        moving_average_for_momentum=True,
        weight_decay=0.1,
        decoupled_weight_decay=True,
        start_preconditioning_step=6,
        preconditioning_compute_steps=5,
        shape_interpretation=False,
        graft_type=3,
        nesterov=True,
        matrix_eps=1e-4,
        use_svd=True,
    )


# Muon ----------------------------------------------------------------------------------------------------------------

TORCH_MUON = {
    "original": dict(weight_decay=0.0, adjust_lr_fn="original"),
    "original_plain": dict(weight_decay=0.0, adjust_lr_fn="original", nesterov=False),
    "match_rms_adamw": dict(weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    "match_rms_adamw_plain": dict(weight_decay=0.0, adjust_lr_fn="match_rms_adamw", nesterov=False, momentum=0.9),
}
for name, settings in TORCH_MUON.items():

    @run(f"muon/torch_{name}")
    def _(params, settings=settings):
        return torch.optim.Muon(params, lr=0.02, **settings)


@run("muon/jordan")
def _(params):
    return load("Muon/muon.py", "jordan_muon").SingleDeviceMuon(params, lr=0.02, weight_decay=0.1, momentum=0.95)


def muon_of(name, params, **settings):
    import pytorch_optimizer

    group = dict(params=params, use_muon=True, lr=0.02, **settings)
    return getattr(pytorch_optimizer, name)([group], foreach=False)


@run("muon/pytorch_optimizer_moonlight")
def _(params):
    return muon_of("Muon", params, weight_decay=0.1, use_adjusted_lr=True)


@run("muon/pytorch_optimizer_polar_express")
def _(params):
    return muon_of("Muon", params, ns_coeffs="polar_express")


@run("muon/pytorch_optimizer_polar_express_8")
def _(params):
    return muon_of("Muon", params, ns_coeffs="polar_express", ns_steps=8)


@run("muon/pytorch_optimizer_quintic")
def _(params):
    return muon_of("Muon", params, ns_coeffs="quintic")


def dion_package():
    """microsoft/dion without its __init__, which imports all of it."""
    if "dion" not in sys.modules:
        sys.modules["dion"] = package = types.ModuleType("dion")
        package.__path__ = [str(CHECKOUTS / "dion" / "dion")]
    return lambda module: importlib.import_module(f"dion.{module}")


for name, adjust in (("spectral_norm", "spectral_norm"), ("rms_norm", "rms_norm")):

    @run(f"muon/dion_{name}")
    def _(params, adjust=adjust):
        return dion_package()("muon_reference").Muon(params, lr=0.02, mu=0.95, weight_decay=0.1, adjust_lr=adjust)


# PSGD ----------------------------------------------------------------------------------------------------------------


class AuthorsPsgd:
    """KronWhiten as an optimizer: gradients come from `x.grad`; what it draws is kept, and its balancing is off.

    norm="exact" has spectral norms in place of the estimates from random vectors; with norm="drawn" these vectors
    are kept too.
    """

    def __init__(self, params, norm="exact", **settings):
        self.psgd = load("psgd_torch/psgd.py", "authors_psgd")
        self.params, self.norm, self.drawn, self.eq = params, norm, {}, settings["dQ"] == "EQ"
        self.kron = self.psgd.KronWhiten(params, preconditioner_init_scale=1.0, **settings)

    def _keep(self, key, value):
        self.drawn.setdefault(key, []).append(value.numpy().copy())
        return value

    def step(self):
        randn, randn_like, rand = torch.randn, torch.randn_like, torch.rand
        norms = self.psgd.norm_lower_bound_spd, self.psgd.norm_lower_bound_skh
        torch.rand = lambda *a, **k: torch.tensor(0.5)
        # Elsewhere the probe only adds 1e-9 of noise to the gradient.
        torch.randn_like = lambda x: self._keep("probe", randn_like(x)) if self.eq else randn_like(x)
        if self.norm == "exact":
            for name in ("norm_lower_bound_spd", "norm_lower_bound_skh"):
                setattr(self.psgd, name, lambda a: torch.linalg.matrix_norm(a, 2))
        else:
            torch.randn = lambda *a, **k: self._keep("subspace", randn(*a, **k))
        try:
            self.kron.step(lambda: sum((x * x.grad).sum() for x in self.params))
        finally:
            torch.randn, torch.randn_like, torch.rand = randn, randn_like, rand
            self.psgd.norm_lower_bound_spd, self.psgd.norm_lower_bound_skh = norms


PSGD = {
    "quad": dict(dQ="QUAD"),
    "q05eq15": dict(dQ="Q0.5EQ1.5"),
    "qeq": dict(dQ="QEQ"),
    "qep": dict(dQ="QEP"),
    "eq": dict(dQ="EQ"),
    "quad_momentum": dict(dQ="QUAD", momentum=0.9, lr_preconditioner=0.3),
    "quad_whiten_momentum": dict(dQ="QUAD", momentum=0.9, whiten_grad=False),
    "quad_after": dict(dQ="QUAD", update_preconditioner_first=False),
    "q05eq15_momentum": dict(dQ="Q0.5EQ1.5", momentum=0.9),
    "eq_momentum": dict(dQ="EQ", momentum=0.9),
    "quad_diagonal": dict(dQ="QUAD", preconditioner_max_size=5),
    "eq_diagonal": dict(dQ="EQ", preconditioner_max_size=5),
    "q05eq15_diagonal": dict(dQ="Q0.5EQ1.5", preconditioner_max_size=5),
}
for name, settings in PSGD.items():
    # Only "wide" has a side above 5 that is then diagonal, next to one that is not.
    leaves = ("wide",) if "diagonal" in name else ("square", "wide")

    @run(f"psgd_kron/authors_{name}", leaves)
    def _(params, settings=settings):
        skew = dict(preconditioner_max_skew=float("inf"))
        return AuthorsPsgd(params, lr_params=0.02, **(skew | settings))


for name in ("quad", "q05eq15"):

    @run(f"psgd_kron/authors_{name}_estimate", ("square",))
    def _(params, name=name):
        return AuthorsPsgd(params, "drawn", lr_params=0.02, preconditioner_max_skew=float("inf"), **PSGD[name])


class Recorded:
    """An optimizer whose torch.randn_like is kept; the rest of its randomness has to be off."""

    def __init__(self, optimizer):
        self.optimizer, self.drawn = optimizer, {}

    def step(self):
        randn_like = torch.randn_like

        def keep(x, **settings):
            value = randn_like(x, **settings)
            self.drawn.setdefault("probe", []).append(value.numpy().copy())
            return value

        torch.randn_like = keep
        try:
            self.optimizer.step()
        finally:
            torch.randn_like = randn_like


for name, settings in {
    "": {},
    "_grad": dict(momentum_into_precondition_update=False, weight_decay=0.1),
    "_one_diag": dict(memory_save_mode="one_diag"),
}.items():

    @run(f"psgd_kron/pytorch_optimizer{name}", ("square", "wide"))
    def _(params, settings=settings):
        import pytorch_optimizer

        kron = pytorch_optimizer.Kron(
            params, lr=0.02, momentum=0.9, pre_conditioner_update_probability=1.0, balance_prob=0.0, **settings
        )
        return Recorded(kron)


# KL-Shampoo and KL-SOAP ----------------------------------------------------------------------------------------------


def kl(params, **settings):
    with contextlib.redirect_stdout(None):
        return load("KL-Methods/optim/kl_opt.py", "authors_kl").KLOpt(
            params, lr=0.01, cast_dtype=params[0].dtype, **settings
        )


KL = {
    "f1": dict(betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=1),
    "f5": dict(betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=5),
    "decay": dict(betas=(0.95, 0.9), shampoo_beta=0.8, eps=1e-3, weight_decay=0.1, precondition_frequency=2),
    "damped": dict(betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=1, eps=1e-3, using_damping=True),
    "unclamped_init1": dict(
        betas=(0.9, 0.95), weight_decay=0.0, precondition_frequency=1, using_clamping=False, init_factor=1.0
    ),
}
for name, settings in KL.items():

    @run(f"kl_shampoo/authors_{name}", mp.NEAR)
    def _(params, settings=settings):
        return kl(params, using_klsoap=False, **settings)

    @run(f"kl_soap/authors_{name}", mp.NEAR)
    def _(params, settings=settings):
        return kl(params, using_klsoap=True, **settings)


for name, root in (("root", "RootInvKL"), ("eigh", "EigendecomposedKL")):

    @run(f"kl_shampoo/distributed_{name}")
    def _(params, root=root):
        return distributed_shampoo(
            params,
            betas=(0.9, 0.95),
            epsilon=1e-3,
            preconditioner_config=(f"{root}ShampooPreconditionerConfig", {}),
        )


# NorMuon -------------------------------------------------------------------------------------------------------------

for name, settings in {"": {}, "_decay": dict(weight_decay=0.1, momentum=0.9, beta2=0.8)}.items():

    @run(f"normuon/authors{name}")
    def _(params, settings=settings):
        return load("NorMuon/normuon.py", "authors_normuon").SingleDeviceNorMuon(params, lr=0.02, **settings)


@run("normuon/pytorch_optimizer_match_rms")
def _(params):
    return muon_of("NorMuon", params, update_scale="match_rms", weight_decay=0.1)


# Scion ---------------------------------------------------------------------------------------------------------------

SCION = {
    "spectral": dict(norm="Spectral", scale=3.0),
    "spectral_free": dict(norm="Spectral", scale=3.0, unconstrained=True),
    "spectral_plain": dict(norm="Spectral", momentum=1.0),
    "spectral_max": dict(norm="Spectral", norm_kwargs=dict(max=True)),
    "spectral_unnormalized": dict(norm="Spectral", norm_kwargs=dict(normalized=False)),
    "sign": dict(norm="Sign", scale=3.0),
    "sign_unnormalized_free": dict(norm="Sign", norm_kwargs=dict(normalized=False), unconstrained=True),
    "col": dict(norm="ColNorm"),
    "col_normalized": dict(norm="ColNorm", norm_kwargs=dict(normalized=True), scale=5.0),
    "col_transpose": dict(norm="ColNorm", norm_kwargs=dict(transpose=True)),
    "row": dict(norm="RowNorm", scale=3.0),
    "row_unnormalized": dict(norm="RowNorm", norm_kwargs=dict(normalized=False)),
    "auto": dict(norm="Auto", scale=3.0),
}
for name, settings in SCION.items():
    # signs are discontinuous, so only one leaf each
    leaves = ("vector", "wide") if name == "auto" else ("wide",) if name.startswith("sign") else ("tall", "wide")

    @run(f"scion/authors_{name}", leaves)
    def _(params, settings=settings):
        return load("scion/scion.py", "authors_scion").Scion(params, **(dict(lr=0.01, momentum=0.1) | settings))


# Dion ----------------------------------------------------------------------------------------------------------------


class Dion:
    """microsoft/dion; keeps the random start "Q0" of the power iteration."""

    def __init__(self, params, module, name="Dion", **settings):
        self.optimizer = getattr(dion_package()(module), name)(params, lr=0.02, mu=0.95, **settings)
        self.params, self.drawn = params, {}
        init = self.optimizer._init_opt_state_dion

        def keep(param, state, *args):
            init(param, state, *args)
            self.drawn["Q0"] = state["Q"].numpy().copy()

        self.optimizer._init_opt_state_dion = keep

    def step(self):
        self.optimizer.step()


for name, settings in {
    "full": dict(rank_fraction=1.0, weight_decay=0.0),
    "half": dict(rank_fraction=0.5, weight_decay=0.0),
    "half_decay": dict(rank_fraction=0.5, weight_decay=0.1),
    "half_power2": dict(rank_fraction=0.5, weight_decay=0.0, power_iters=2),
}.items():

    @run(f"dion/authors_{name}")
    def _(params, settings=settings):
        return Dion(params, "dion_reference", qr_method="qr", **settings)


@run("dion/authors_simple_rank2")
def _(params):
    return Dion(params, "dion_simple", rank=2, weight_decay=0.1)


for name, settings in {
    "full": dict(fraction=1.0, weight_decay=0.0),
    "half": dict(fraction=0.5, weight_decay=0.1, adjust_lr="rms_norm"),
}.items():

    @run(f"dion2/authors_{name}")
    def _(params, settings=settings):
        return dion_package()("dion2").Dion2(params, lr=0.02, **settings)


# SOAP, then Muon's orthogonalization: the parts are their authors', put together here ---------------------------------


class NanogptSoapMuon:
    """What a record of modded-nanogpt does before Muon's orthogonalization, taken from its training script."""

    FILE = (
        "records/track_3_optimization/results/20260504_contra_muon_mlp_soapish/train_gpt_contra_normuon_soapish_mlp.py"
    )
    NAMES = ("soap_eigenbasis", "soap_basis_qr", "soap_precondition_momentum", "soap_update_preconditioner")

    def __init__(self, params, lr, mu, beta2, frequency):
        show = ["git", "-C", CHECKOUTS / "modded-nanogpt", "show", f"HEAD:{self.FILE}"]
        tree = ast.parse(subprocess.run(show, capture_output=True, text=True, check=True).stdout)
        tree.body = [d for d in tree.body if isinstance(d, ast.FunctionDef) and d.name in self.NAMES]
        self.code = {"torch": torch, "Tensor": torch.Tensor, "SOAP_BETA2": beta2}
        exec(compile(tree, self.FILE, "exec"), self.code)
        self.muon = load("Muon/muon.py", "jordan_muon")
        self.params, self.lr, self.mu, self.frequency, self.states = params, lr, mu, frequency, []
        for x in params:
            factors = {"row_gg": torch.zeros(len(x), len(x)), "col_gg": torch.zeros(x.shape[1], x.shape[1])}
            zeros = {k: torch.zeros_like(x) for k in ("momentum", "exp_avg_sq")}
            self.states.append({"q_row": None, "q_col": None, "soap_step": 0} | factors | zeros)

    @torch.no_grad()
    def step(self):
        for x, state in zip(self.params, self.states, strict=True):
            state["momentum"].lerp_(x.grad, 1 - self.mu)
            update = x.grad.lerp(state["momentum"], self.mu)
            update = self.code["soap_precondition_momentum"](update, state)
            update = self.muon.zeropower_via_newtonschulz5(update, steps=5)
            x.sub_(self.lr * max(1, x.shape[0] / x.shape[1]) ** 0.5 * update)
            self.code["soap_update_preconditioner"](x.grad, state, precondition_frequency=self.frequency)


for f in (1, 5):

    @run(f"soap_muon/nanogpt_f{f}", mp.NEAR)
    def _(params, f=f):
        return NanogptSoapMuon(params, 0.02, 0.95, 0.9, f)


class SoapMuon:
    """x -= lr * sqrt(max(1, rows / columns)) * NS5(SOAP's direction)."""

    def __init__(self, params, lr, **settings):
        self.params, self.lr = params, lr
        self.shadow = [torch.nn.Parameter(x.detach().clone()) for x in params]
        soap = load("SOAP/soap.py", "authors_soap").SOAP
        self.soap = soap(self.shadow, lr=1.0, weight_decay=0.0, **settings)
        self.muon = load("Muon/muon.py", "jordan_muon")

    @torch.no_grad()
    def step(self):
        for x, s in zip(self.params, self.shadow, strict=True):
            s.zero_()
            s.grad = x.grad
        self.soap.step()
        for x, s in zip(self.params, self.shadow, strict=True):
            if s.any():
                update = self.muon.zeropower_via_newtonschulz5(-s, steps=5)
                x.sub_(self.lr * max(1, x.shape[0] / x.shape[1]) ** 0.5 * update)


for f in (1, 5):

    @run(f"soap_muon/composed_f{f}", mp.NEAR)
    def _(params, f=f):
        return SoapMuon(params, 0.02, betas=(0.95, 0.9), precondition_frequency=f)


def main() -> None:
    global CHECKOUTS
    parser = argparse.ArgumentParser()
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    CHECKOUTS = args.checkouts.resolve()

    out = {}
    for name, (_, leaves) in RUNS.items():
        if not name.startswith(args.only):
            continue
        for leaf in leaves:
            out[f"{name}/{leaf}"] = x = trajectory(name, leaf)
            assert np.isfinite(x).all(), name
            if args.check:
                near = trajectory(name, leaf, shift=1e-6, store=False)
                try:
                    exact = trajectory(name, leaf, torch.float64, store=False)
                    rounding = f"{np.abs(exact - x).max():.1e}"
                except Exception as e:
                    rounding = f"no float64 ({type(e).__name__})"
                moved = np.abs(x[-1] - mp.make()[leaf]["x0"]).max()
                print(
                    f"{name}/{leaf}: moved {moved:.2f}, perturbed {np.abs(near - x).max():.1e}, float64 {rounding}",
                    flush=True,
                )
    if args.only:
        return
    for leaf, arrays in mp.make().items():
        out |= {f"problem/{leaf}/{k}": v for k, v in arrays.items()}
    packages = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "numpy", "pytorch_optimizer", "opt_einsum")]
    for folder, commit in COMMITS.items():
        head = subprocess.run(["git", "-C", CHECKOUTS / folder, "rev-parse", "HEAD"], capture_output=True, text=True)
        assert head.stdout.startswith(commit.split()[1]), folder
    out |= {"kept": np.array(mp.KEPT), "versions": np.array(packages + list(COMMITS.values()))}
    path = Path(__file__).with_name("matrix.npz")
    np.savez_compressed(path, **out, **NOISE)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
