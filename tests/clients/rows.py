"""The clients: where their tests come from, which of them use Optax, and what they need to run."""

from dataclasses import dataclass

MINUTE = 60
INSTALLED = "the installed package"


@dataclass(frozen=True)
class Client:
    """A library that uses Optax.

    name: of the row, and of the folder with its checkout.
    packages: the distributions whose versions the table shows; none if the code under test is the checkout's.
    url, commit: of the checkout. Without a url the source distribution of `packages[0]` at that version is unpacked;
      with `INSTALLED` the tests are copied that lie in the installed package.
    tests: files of the checkout that run whole.
    mention: files of which only those tests run that say "optax" in their source or parameters.
    programs: files in `tests/clients/programs/`.
    options: for pytest; `{src}` is the checkout.
    paths: folders of the checkout for PYTHONPATH.
    limit: seconds for one run.
    """

    name: str
    packages: tuple[str, ...]
    url: str
    commit: str
    tests: tuple[str, ...] = ()
    mention: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    limit: float = 15 * MINUTE
    note: str = ""


def mocks(names: str) -> tuple[str, ...]:
    return tuple(f"--clients-mock={n}" for n in names.split())


# Optax's tests of functions and constants that only its own private modules have.
PRIVATE = (
    "_src/alias_test.py::LBFGSTest::test_preconditioning_by_lbfgs",
    "_src/linear_algebra_test.py::LinearAlgebraTest::test_power_iteration_cond_fun",
    "_src/linesearch_test.py::ZoomLinesearchTest::test_extract_fns_kwargs",
    "_src/linesearch_test.py::ZoomLinesearchTest::test_failure_descent_direction",
    "_src/linesearch_test.py::ZoomLinesearchTest::test_failure_flat_fun",
    "_src/linesearch_test.py::ZoomLinesearchTest::test_failure_not_enough_iter",
    "_src/linesearch_test.py::ZoomLinesearchTest::test_failure_too_small_max_stepsize",
    "_src/utils_test.py::HelpersTest::test_set_diag_",
    "_src/utils_test.py::HelpersTest::test_tile_",
    "_src/utils_test.py::MultiNormalDiagFromLogScaleTest::test_init_successful_broadcast",
    "contrib/_muon_test.py::MuonTest::test_newton_schulz",
    "contrib/_muon_test.py::MuonTest::test_reshape_inverse",
)

CLIENTS = [
    Client(
        name="optax",
        packages=("optax",),
        url=INSTALLED,
        commit="0.2.8",
        tests=(".",),
        options=(
            "-p",
            "optax_helpers",
            "--clients-extend=optax._src={src}/_src",
            *(f"--deselect={test}" for test in PRIVATE),
        ),
        limit=120 * MINUTE,
        note="Its own tests, but for those that call helpers of its private modules.",
    ),
    Client(
        name="flax",
        packages=("flax",),
        url="https://github.com/google/flax",
        commit="9877bea7f892a54b02df9fc24727b56aee2d2717",  # v0.12.7
        tests=("tests/nnx/optimizer_test.py",),
        mention=(
            "tests/cursor_test.py",
            "tests/serialization_test.py",
            "tests/traverse_util_test.py",
            "tests/linen/linen_test.py",
            "tests/nnx/graph_utils_test.py",
            "tests/nnx/helpers_test.py",
            "tests/nnx/integration_test.py",
            "tests/nnx/mutable_array_test.py",
            "tests/nnx/spmd_test.py",
            "tests/nnx/transforms_test.py",
        ),
    ),
    Client(
        name="optimistix",
        packages=("optimistix",),
        url="https://github.com/patrick-kidger/optimistix",
        commit="8cb3e507dee7a67d6aa1263c4f5cc2e027a1a8d7",  # v0.1.0
        mention=("tests/test_minimise.py", "tests/test_least_squares.py"),
    ),
    Client(
        name="equinox",
        packages=("equinox",),
        url="https://github.com/patrick-kidger/equinox",
        commit="dfadb04884a0fc067fb85282c994f8e5c106941f",  # v0.13.8
        programs=("equinox_notebooks.py", "equinox_leaves.py"),
        note="Its own tests do not use Optax; the programs follow its notebooks.",
    ),
    Client(
        name="numpyro",
        packages=("numpyro",),
        url="https://github.com/pyro-ppl/numpyro",
        commit="e708f34b1c0b2c37137196281ba1486be7bebf39",  # 0.21.0
        tests=(
            "test/test_optimizers.py",
            "test/infer/test_autoguide.py::test_dais_vae",
            "test/infer/test_autoguide.py::test_auto_batched",
        ),
        programs=("numpyro_svi.py",),
        note="Two of its tests of guides take many minutes each; a program trains with their optimizer instead.",
    ),
    Client(
        name="blackjax",
        packages=("blackjax",),
        url="",
        commit="1.7.1",
        tests=("tests/vi/test_svgd.py", "tests/vi/test_meanfield_vi.py", "tests/vi/test_fullrank_vi.py"),
        mention=("tests/mcmc/test_sampling.py", "tests/adaptation/test_adaptation.py"),
    ),
    Client(
        name="jaxopt",
        packages=("jaxopt",),
        url="https://github.com/google/jaxopt",
        commit="b12c2f3ddaa3ef71fac42d7e419adccb9dcc49a1",  # v0.8.5
        tests=("tests/optax_wrapper_test.py",),
        mention=("tests/anderson_wrapper_test.py", "tests/common_test.py"),
    ),
    Client(
        name="levanter",
        packages=(),
        url="https://github.com/stanford-crfm/levanter",
        commit="9263f81e8b453241332c2c0b2d2001bfb2d2241c",  # main of 2025-09-26
        tests=(
            "tests/test_optimizer_config.py",
            "tests/test_skip_step.py",
            "tests/test_model_averaging.py",
            "tests/test_sophia.py",
            "tests/test_weight_decay_mask.py",
            "tests/test_tensorstore_serialization.py",
            "tests/test_checkpoint.py",
        ),
        mention=("tests/test_lora.py",),
        programs=("levanter_optimizers.py",),
        options=(
            "--noconftest",
            "--clients-bare=levanter={src}/src/levanter",
            *mocks("ray datasets wandb lenses gcsfs trackio"),
        ),
        note="The checkout's code, without its `__init__`; Ray, datasets and the trackers are mocks.",
    ),
    Client(
        name="maxtext",
        packages=(),
        url="https://github.com/AI-Hypercomputer/maxtext",
        commit="538fe7a3f3376d94cf3f04e77741aa6d7e8efa45",  # v0.2.4
        tests=(
            "tests/unit/optimizers_test.py",
            "tests/unit/muon_utils_test.py",
            "tests/unit/train_state_nnx_test.py",
            "tests/unit/maxtext_utils_test.py::TestGradientClipping",
            "tests/unit/maxtext_utils_test.py::TestLearningRateSchedules",
        ),
        mention=("tests/unit/state_dtypes_test.py", "tests/unit/train_utils_nnx_test.py"),
        programs=("maxtext_optimizers.py",),
        options=(
            "--noconftest",
            "--deselect=tests/unit/optimizers_test.py::MuonDimensionTest",
            *mocks("pathwaysutils qwix aqt maxtext.models maxtext.layers maxtext.multimodal maxtext.trainers"),
            *mocks("maxtext.common.checkpointing maxtext.common.emergency_checkpointing maxtext.utils.elastic_utils"),
            *mocks("maxtext.utils.gcs_utils maxtext.utils.model_creation_utils maxtext.inference.inference_utils"),
        ),
        paths=("src", "."),
        note="The checkout's code; models, layers, checkpoints and cloud services are mocks, tests of models left out.",
    ),
    Client(
        name="orbax",
        packages=(),
        url="https://github.com/google/orbax",
        commit="3ff7b24aa0e23db4a575f7dc4bc6f815008ac6fd",  # main of 2026-08-19
        tests=tuple(
            f"checkpoint/orbax/checkpoint/{file}_test.py"
            for file in "_src/metadata/empty_values _src/metadata/tree _src/tree/utils transform_utils "
            "experimental/v1/_src/loading/validation experimental/v1/_src/saving/validation".split()
        ),
        mention=tuple(
            f"checkpoint/orbax/checkpoint/{file}_test.py"
            for file in "_src/handlers/pytree_checkpoint_handler _src/handlers/standard_checkpoint_handler "
            "experimental/v1/_src/handlers/pytree_handler experimental/v1/_src/testing/save_load".split()
        ),
        options=("-p", "orbax_alone", "--import-mode=importlib", *mocks("grain portpicker")),
        paths=("checkpoint",),
        note="The checkout's code, in one process with eight devices; Grain is a mock.",
    ),
    Client(
        name="jax_privacy",
        packages=(),
        url="https://github.com/google-deepmind/jax_privacy",
        commit="78d1b854c16f398855f115551069c5f5caeb2d50",  # the last that Optax 0.2.8 runs
        tests=("tests/optimizers_test.py",),
        options=mocks("dp_accounting"),
        paths=(".",),
        note="The checkout's code; the accountant is a mock.",
    ),
    Client(
        name="scenic",
        packages=(),
        url="https://github.com/google-research/scenic",
        commit="4a38d475ee89cb821078c0e2bf2065ee030e1535",  # main of 2026-07-02
        tests=("scenic/train_lib/tests/test_optax.py", "scenic/train_lib/tests/test_optimizers.py"),
        options=("-p", "tensorflow_mock", *mocks("clu scenic.dataset_lib")),
        paths=(".",),
        note="The checkout's code; TensorFlow, CLU and the data sets are mocks.",
    ),
    Client(
        name="big_vision",
        packages=(),
        url="https://github.com/google-research/big_vision",
        commit="0127fb6b337ee2a27bf4e54dea79cff176527356",  # main of 2025-05-19
        tests=("big_vision/optax_test.py",),
        options=mocks("tensorflow"),
        paths=(".",),
        note="The checkout's code; TensorFlow is a mock.",
    ),
    Client(
        name="penzai",
        packages=(),
        url="https://github.com/google-deepmind/penzai",
        commit="aac7808a3d1269ea9885094d78d2274d56fc7449",  # main of 2025-06-22
        tests=(
            "tests/models/simple_mlp_test.py",
            "tests/toolshed/lora_test.py",
            "tests/deprecated/v1/example_models/simple_mlp_test.py",
            "tests/deprecated/v1/toolshed/lora_test.py",
        ),
        paths=(".",),
        note="The checkout's code.",
    ),
    Client(
        name="netket",
        packages=("netket",),
        url="https://github.com/netket/netket",
        commit="3b9e1c2865290d08d5df170661128a6b6c8d3939",  # master of 2026-05-28
        mention=("test/driver/test_srt.py", "test/driver/test_vmc_ngd.py"),
        options=("--override-ini=addopts=", "--import-mode=importlib"),  # its own settings want other plugins
        note="The tests of its drivers; 96 more train one network with `sgd`.",
    ),
    Client(
        name="jaxley",
        packages=(),
        url="https://github.com/jaxleyverse/jaxley",
        commit="2638cca2665ec056c40c932dcee924192fc94da2",  # main of 2026-05-20
        tests=("tests/test_optimize.py",),
        options=mocks("jaxley_mech"),
        paths=(".",),
        note="The checkout's code; a package of channels is a mock.",
    ),
    Client(
        name="evosax",
        packages=(),
        url="https://github.com/RobertTLange/evosax",
        commit="d4b4127708cb2cd0cc906b910ddcd091013153a9",  # main of 2026-08-17
        mention=("tests/test_algorithms/test_distribution_based.py",),
        paths=(".",),
        note="The checkout's code.",
    ),
]
