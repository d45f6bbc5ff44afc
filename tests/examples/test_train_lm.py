"""The language model example: its parts against plain oracles, and whole runs at the smallest size that suffices."""

import contextlib
import importlib.util
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.programs

sys.path.append(str(Path(__file__).parents[2] / "examples"))
train_lm, text, model, checkpoint = map(importlib.import_module, ("train_lm", "lm.text", "lm.model", "lm.checkpoint"))

SENTENCE = b"the cat sat on the mat and the rat ran to the hat. "
SIZE = (
    "--optimizer adamw --batch 8 --length 16 --width 16 --layers 1 --heads 1 --learning-rate 0.02 --steps 300".split()
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Text in which the byte before says little of the next one, and the sixteen before say all."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_bytes(SENTENCE * 200)
    return str(path)


def run(corpus: str, out: Path, *options: str) -> tuple[dict[str, np.ndarray], str]:
    """A run's checkpoint and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        train_lm.main([corpus, "--out", str(out), *SIZE, *options])
    with np.load(out / "checkpoint.npz") as stored:
        return dict(stored), shown.getvalue()


@pytest.fixture(scope="module")
def whole(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray], str]:
    """The folder of a run that nothing interrupted, its checkpoint and what it printed."""
    out = tmp_path_factory.mktemp("whole")
    return out, *run(corpus, out)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)


def test_the_model_goes_far_under_the_bigram_table(whole: tuple[Path, dict[str, np.ndarray], str]):
    out, stored, shown = whole
    assert "bigram     0.894 nats" in shown
    assert "nats under the bigram table" in shown
    held_out = stored[".history['held_out']"]
    assert held_out[-1] < 0.3
    assert np.isfinite(held_out).sum() == train_lm.EVALUATIONS
    written = (out / "sample.txt").read_text()
    assert written in shown
    words = written.split(train_lm.MARK)[1].split()[1:-1]
    assert sum(word in SENTENCE.decode().split() for word in words) > 0.75 * len(words) > 50


def test_a_run_that_is_stopped_and_interrupted_ends_bit_for_bit_as_one_that_is_not(
    whole: tuple[Path, dict[str, np.ndarray], str], corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stored, shown = run(corpus, tmp_path, "--stop-at", "90")
    assert "resuming" not in shown
    assert np.isfinite(stored[".history['loss']"]).sum() == 90

    batch = text.batch

    def interrupt(*args: Any) -> np.ndarray:
        if args[-1] == 205:
            raise KeyboardInterrupt
        return batch(*args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="interrupted"):
        patch.setattr(text, "batch", interrupt)
        run(corpus, tmp_path, "--checkpoint-every", "50")

    stored, shown = run(corpus, tmp_path)
    assert "resuming   at step 200 of 300" in shown
    assert same(stored, whole[1])


def test_a_finished_run_is_not_trained_again_unless_fresh(
    whole: tuple[Path, dict[str, np.ndarray], str], corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    shutil.copy(whole[0] / "checkpoint.npz", tmp_path)
    stored, shown = run(corpus, tmp_path)
    assert "finished   at step 300 of 300" in shown
    assert "trained" not in shown
    reached = [line for line in whole[2].splitlines() if line.startswith("reached")][0]
    assert reached.rpartition(", in ")[0] in shown
    assert same(stored, whole[1])
    assert "matplotlib is missing" in shown
    assert not (tmp_path / "loss.png").exists()
    with pytest.raises(SystemExit, match="another seed: start anew with --fresh"):
        run(corpus, tmp_path, "--seed", "1")
    stored, shown = run(corpus, tmp_path, "--seed", "1", "--fresh", "--stop-at", "5")
    assert "trained" in shown
    assert not same(stored, whole[1])


def test_a_loss_that_is_not_finite_ends_the_run(corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "loss", lambda params, windows: jnp.sum(params["head"]["out"]) / 0.0)
    with pytest.raises(SystemExit, match="step 1: the loss is nan"):
        run(corpus, tmp_path)
    assert not (tmp_path / "checkpoint.npz").exists()


@pytest.mark.parametrize("path", ["", "missing.txt"])
def test_no_text_is_a_clear_error(path: str, tmp_path: Path):
    with pytest.raises(SystemExit, match="no such file|no text"):
        run(str(tmp_path / path), tmp_path / "out")


@pytest.mark.parametrize("done", [1, 60, 80])
def test_the_picture_is_drawn(done: int, tmp_path: Path):
    pytest.importorskip("matplotlib")
    history = {"loss": np.linspace(5, 2, 80), "held_out": np.full(80, np.nan)}
    history["loss"][done:] = np.nan
    history["held_out"][19:done:20] = 4.0
    picture = importlib.import_module("lm.picture")
    picture.draw(tmp_path / "loss.png", history, np.ones(80), 2.4, "title")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_learning_rate_warms_up_and_falls():
    tx, rate = train_lm.optimizer(train_lm.options(["--steps", "200", "--learning-rate", "1"]))
    rates = rate(jnp.arange(201))
    np.testing.assert_allclose(rates[jnp.array([0, 5, 10, 105, 200])], [0.1, 0.55, 1.0, 0.55, 0.1], rtol=1e-5)
    params = {"matrix": jnp.ones((2, 2)), "gain": jnp.ones(2)}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["matrix"], -0.1 * 0.1, rtol=1e-6)  # weight decay times the first rate
    np.testing.assert_array_equal(updates["gain"], 0)


@pytest.mark.parametrize(("bits", "dtypes"), [(32, {"float32"}), (8, {"uint16"}), (4, {"uint8"})])
def test_the_state_has_as_many_bits_as_asked(bits: int, dtypes: set[str]):
    o = train_lm.options(["--optimizer", "adamw", "--state-bits", str(bits)])
    tx, _ = train_lm.optimizer(o)
    params = {"matrix": jnp.ones((128, 64)), "gain": jnp.ones(64)}
    updates, state = tx.update(params, tx.init(params), params)
    assert {str(x.dtype) for x in jax.tree.leaves(state) if x.size >= 4096} == dtypes
    assert all(bool(jnp.all(x < 0)) for x in jax.tree.leaves(updates))
    assert "state_bits" in train_lm.IDENTITY


@pytest.mark.slow
def test_bfloat16_parameters_and_a_coded_state_resume_bit_for_bit(tmp_path: Path, corpus: str):
    def run(out: Path, *more: str) -> Any:
        narrow = [
            "--params",
            "bfloat16",
            "--state-bits",
            "8",
            "--width",
            "64",
            "--steps",
            "12",
            "--checkpoint-every",
            "6",
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            train_lm.main([corpus, *SIZE, *narrow, "--out", str(out), *more])
        with np.load(out / "checkpoint.npz") as stored:
            return {name: stored[name] for name in stored.files}

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", "--stop-at", "6")
    parts = run(tmp_path / "parts")
    states = [name for name in whole if name.startswith((".params", ".state"))]
    assert len(states) > 20 and all(whole[name].tobytes() == parts[name].tobytes() for name in states)
    assert {whole[name].dtype.itemsize for name in states if name.startswith(".params")} == {2}


def test_the_standard_library_is_read_without_its_tests():
    data = text.read()
    assert data.files > 100
    assert len(data.train) > 10 * len(data.held_out) > 1_000_000
    whole = data.train.tobytes()
    assert b"class ArgumentParser" in whole + data.held_out.tobytes()
    assert b"class TestCase(unittest.TestCase)" not in whole


def test_one_file_in_twenty_is_held_out(tmp_path: Path):
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(f"<{i}>")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    data = text.read(str(tmp_path))
    assert data.files == 40
    assert data.held_out.tobytes() == b"<0>\n<20>"
    assert data.train.tobytes() == b"\n".join(b"<%d>" % i for i in range(40) if i % 20)


def test_the_last_twentieth_of_a_single_file_is_held_out(tmp_path: Path):
    (tmp_path / "one.txt").write_bytes(bytes(range(100)))
    (tmp_path / "one.txt").write_text("".join(map(chr, range(20, 120))))
    data = text.read(str(tmp_path / "one.txt"))
    assert data.train.tolist() == list(range(20, 115))
    assert data.held_out.tolist() == list(range(115, 120))


def test_batches_are_windows_that_depend_on_seed_and_step_alone():
    train = np.arange(20, dtype=np.uint8)
    first = text.batch(train, 500, 16, 0, 3)
    assert first.shape == (500, 17)
    assert set(first[:, 0].tolist()) == {0, 1, 2, 3}  # every window there is
    np.testing.assert_array_equal(np.diff(first), 1)
    np.testing.assert_array_equal(first, text.batch(train, 500, 16, 0, 3))
    assert (first != text.batch(train, 500, 16, 0, 4)).any()
    assert (first != text.batch(train, 500, 16, 1, 3)).any()


@pytest.mark.parametrize(("size", "count", "windows"), [(17, 8, 1), (33, 8, 2), (100, 3, 3), (1000, 1000, 62)])
def test_held_out_windows_share_no_target(size: int, count: int, windows: int):
    spread = text.spread(np.arange(size), count, 16)
    assert spread.shape == (windows, 17)
    assert len(np.unique(spread[:, 1:])) == windows * 16
    assert spread[0, 0] == 0
    assert windows == 1 or spread[-1, -1] == size - 1
    with pytest.raises(ValueError, match="too few"):
        text.spread(np.arange(16), count, 16)


def test_the_bigram_loss_is_that_of_counting():
    rng = np.random.default_rng(0)
    train, windows = rng.integers(97, 101, 200).astype(np.uint8), rng.integers(97, 103, (3, 9)).astype(np.uint8)
    total = 0.0
    for window in windows.tolist():
        for a, b in zip(window[:-1], window[1:], strict=True):
            pairs = list(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))
            p = (train.tolist().count(b) + 1) / (200 + 256)
            total -= np.log((pairs.count((a, b)) + p) / (sum(first == a for first, _ in pairs) + 1))
    assert text.bigram_loss(train, windows) == pytest.approx(total / 24, rel=1e-12)


def test_samples_are_safe_to_print():
    assert text.printable(np.frombuffer(b"a\tb\n\x1b[2J\xff\xc3\xa9", np.uint8)) == "a\tb\n?[2J?\xe9"


@pytest.fixture(scope="module")
def params() -> Any:
    """A model with no zero matrix, so that everything in it counts."""
    rng = np.random.default_rng(0)
    params = model.init(jax.random.key(0), 16, 2, 2)
    return jax.tree.map(lambda p: jnp.asarray(p + 0.3 * rng.normal(size=p.shape).astype(np.float32)), params)


logits, loss = jax.jit(model.logits), jax.jit(model.loss)
WINDOWS = np.random.default_rng(1).integers(0, 256, (2, 9)).astype(np.uint8)


def test_a_new_model_is_uniform():
    params = model.init(jax.random.key(0), 16, 2, 2)
    assert float(loss(params, WINDOWS)) == pytest.approx(np.log(256), rel=1e-6)
    with pytest.raises(ValueError, match="3 heads need a width that is a multiple of 6, not 16"):
        model.init(jax.random.key(0), 16, 2, 3)


def test_the_loss_is_the_mean_over_the_bytes_that_follow(params: Any):
    scores = np.asarray(logits(params, WINDOWS[:, :-1].astype(np.int32)), np.float64)
    p = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    expected = -np.mean([np.log(p[i, j, WINDOWS[i, j + 1]]) for i in range(2) for j in range(8)])
    assert float(loss(params, WINDOWS)) == pytest.approx(expected, rel=1e-5)


def test_every_parameter_has_a_gradient(params: Any):
    for g in jax.tree.leaves(jax.jit(jax.grad(model.loss))(params, WINDOWS)):
        assert np.all(np.isfinite(g))
        assert np.any(np.asarray(g) != 0)


def test_no_position_sees_a_later_one_and_every_position_sees_the_first(params: Any):
    tokens = jnp.arange(8)[None]
    before = logits(params, tokens)
    last = logits(params, tokens.at[0, -1].set(99))
    np.testing.assert_allclose(last[0, :-1], before[0, :-1], rtol=1e-5, atol=1e-6)
    first = logits(params, tokens.at[0, 0].set(99))
    assert jnp.all(jnp.max(jnp.abs(first - before), axis=-1) > 1e-3)


def test_rotary_positions_enter_the_scores_by_their_difference_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    q, k = (jnp.tile(x, (1, 1, 6, 1)) for x in (q, k))
    scores = jnp.einsum("bhqk,bhsk->bhqs", model.rotate(q), model.rotate(k))[0, 0]
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], rtol=1e-4, atol=1e-5)
    assert abs(float(scores[0, 0] - scores[3, 0])) > 1e-2


def test_a_cold_sample_is_the_likeliest_byte_each_time(params: Any):
    context = jnp.arange(65, 73, dtype=jnp.uint8)
    window = context.tolist()
    for _ in range(5):
        scores = logits(params, jnp.array(window[-8:])[None])
        window.append(int(jnp.argmax(scores[0, -1])))
    drawn = model.generate(params, jax.random.key(0), context, 5, 1e-6)
    assert drawn.dtype == jnp.uint8
    assert drawn.tolist() == window[8:]


def test_a_checkpoint_comes_back_whole_and_names_what_does_not_fit(tmp_path: Path):
    path, tree = tmp_path / "c.npz", {"a": [np.arange(3), np.float32(2)], "b": (np.zeros((2, 0)),)}
    checkpoint.save(path, tree, {"step": 7})
    back = checkpoint.load(path, tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert checkpoint.about(path) == {"step": 7}
    with pytest.raises(ValueError, match=r"\['a'\]\[0\] is int64\[3\], the run needs int64\[4\]"):
        checkpoint.load(path, tree | {"a": [np.arange(4), np.float32(2)]})
    with pytest.raises(ValueError, match=r"only in the file or only in the run: .*\['c'\]"):
        checkpoint.load(path, tree | {"c": np.zeros(1)})


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "c.npz"
    checkpoint.save(path, {"a": np.zeros(3)}, {"step": 1})

    def fail(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"a": np.ones(3)}, {"step": 2})
    assert checkpoint.about(path) == {"step": 1}
