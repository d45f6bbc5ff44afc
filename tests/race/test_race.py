"""The race's own figures: points, tables, how soon a winner is there; and that a tiny cell runs, resumes and agrees."""

import json
import math
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import gdjax
from benchmarks.race import (
    anytime,
    cell,
    figures,
    makers,
    methods,
    schedule,
    spaces,
    tasks,
    telling,
    trials,
    yardsticks,
)
from benchmarks.race.records import Record, sections
from benchmarks.race.tasks import fine_tuning, language


def record(tmp_path, method, **stages):
    """A record with these ends, of a run of 1000 steps."""
    found = Record("t", method, tmp_path)
    found.about = {"steps": 1000, "unit": "nats", "data": ""}
    for stage, ends in stages.items():
        found.add(stage.replace("_", " "), [{"rate": 0.1}] * len(ends), range(len(ends)), [[]] * len(ends), ends, 1)
    return found


def test_points_are_the_same_everywhere_and_in_their_ranges():
    space = {"rate": spaces.Log(1e-3, 1e-1), "b2": spaces.Decay(0.9, 0.999)}
    found = spaces.points(space, 16)
    assert found == spaces.points(space, 16) and found[:8] == spaces.points(space, 8)
    assert all(1e-3 <= p["rate"] <= 1e-1 and 0.9 <= p["b2"] <= 0.999 for p in found)
    below = sum(p["rate"] < 1e-2 for p in found)
    assert below == 8  # even in the logarithm
    assert found[0] == {"rate": 0.050254, "b2": 0.998628}  # other points would not be those of the records


@pytest.mark.parametrize(("best", "low", "high"), [(1.2e-3, 2.5e-4, 1e-3), (0.09, 1e-1, 4e-1), (1e-2, None, None)])
def test_a_best_rate_at_an_edge_asks_for_the_range_beyond(best, low, high):
    space = {"rate": spaces.Log(1e-3, 1e-1), "b2": spaces.Decay(0.9, 0.999)}
    wider = spaces.extended(space, {"rate": best, "b2": 0.9}, ("rate",))
    assert (wider and tuple(wider[0]["rate"])) == (low and (low, high))
    if wider:
        assert wider[1]["rate"] == (min(low, 1e-3), max(high, 1e-1)) and wider[0]["b2"] == wider[1]["b2"] == space["b2"]


def test_the_schedule_is_a_line_up_and_a_line_down():
    rate = schedule.rate(2.0, 100, warmup=0.1, end=0.5)
    np.testing.assert_allclose([rate(0), rate(4), rate(9)], [0.2, 1.0, 2.0], rtol=1e-6)
    assert rate(99) < 1.02 and all(rate(t) >= rate(t + 1) for t in range(9, 99))
    assert float(schedule.rate(1.0, 100)(99)) == pytest.approx(1 / 96)  # the last step still moves


def test_how_soon_is_where_shorter_runs_cross_the_baseline(tmp_path):
    base = [2.0, 2.0, 2.0]
    winner = record(tmp_path, "w", tune=[1.9], final=[1.8] * 3, steps_500=[2.1] * 3, steps_800=[1.9] * 3)
    share, (low, high) = figures.how_soon(winner, base)
    assert share == pytest.approx(math.sqrt(500 * 800) / 1000) and low == high == pytest.approx(share)
    loser = record(tmp_path, "l", tune=[2.2], final=[2.2, 2.3, 2.2])
    assert figures.how_soon(loser, base)[0] == math.inf


@pytest.mark.full
@pytest.mark.parametrize(
    ("task", "method", "runs"),
    [("language", "normuon", 3), ("recurrent", "recipe", 5), ("autoencoder", "soap-muon", 4)],
)
def test_of_the_eight_shorter_lengths_some_give_the_same_share(task, method, runs, tmp_path):
    """On cells whose record has all of them: in the midst, with a wide interval, below the shortest."""
    kept = Record(task, method)
    both = {name: Record(task, name) for name in ("adamw", "nadamw")}
    base = figures.scaled(both[figures.baseline(both)], "final")
    some = Record(task, method, tmp_path)
    some.about, some.runs = kept.about, kept.stage("final")
    one = types.SimpleNamespace(record=some, steps=kept.about["steps"])
    one.group = lambda stage, points, seeds, steps: some.runs.extend(kept.stage(stage))
    cell.Cell.shorten(one, base)
    (share, interval), (of_all, theirs) = figures.how_soon(some, base), figures.how_soon(kept, base)
    assert share == of_all and len(figures.lengths_of(some)) == 1 + runs
    np.testing.assert_allclose(interval, theirs, rtol=0.015)  # of other draws of the seeds


def test_a_run_of_few_lengths_is_shortened_too(tmp_path):
    ends = {50: 2.5, 100: 2.1, 150: 1.95, 200: 1.9, 250: 1.8}  # 250 steps have four shorter lengths
    kept = record(tmp_path, "m", final=[ends[250]])
    kept.about["steps"] = 250
    one = types.SimpleNamespace(record=kept, steps=250)
    one.group = lambda stage, points, seeds, steps: kept.add(stage, points, [0], [[]], [ends[steps]], 1)
    cell.Cell.shorten(one, [2.0])
    assert sorted(figures.lengths_of(kept)) == [100, 150, 250]


def test_shorter_runs_leave_what_made_the_others(tmp_path):
    kept = record(tmp_path, "m", final=[1.8])
    one = cell.Cell(tasks.task("factors"), methods.METHODS["sgd"], kept, str)
    one.trainer.run = lambda points, seeds, steps: ([[]] * len(seeds), [2.0] * len(seeds), [])
    kept.about |= {"date": "2026-01-02", "code": "old"}
    one.group("steps 400", [{"rate": 1.0}], [0, 1], 400)
    about = Record("t", "m", tmp_path).about
    assert (about["date"], about["code"]) == ("2026-01-02", "old") and about["shorter runs"]["date"] > "2026-01-02"
    one.group("untuned", [{"rate": 1.0}], [0])
    assert kept.about["date"] == about["shorter runs"]["date"]


@pytest.mark.full
def test_beside_two_rates_a_method_is_judged_by_where_that_one_ends(tmp_path):
    near = lambda x: [x - 0.001, x, x + 0.001]
    ends = {"adamw": {1000: 3.0}, "nadamw": {1000: 2.5}, telling.TWO_RATES: {500: 2.2, 1000: 2.0}}
    ends["recipe"] = {600: 2.1, 700: 1.9, 1000: 1.8}
    ends["muon"] = {400: 2.1, 1000: 1.8}  # where it crosses lies between lengths that have not run
    stages = lambda of: {"final" if n == 1000 else f"steps_{n}": near(x) for n, x in of.items()}
    cells = {name: record(tmp_path, name, tune=[1.0], **stages(of)) for name, of in ends.items()}
    wanted = rf"Share of the steps to where {telling.TWO_RATES}, ends: recipe 0.65 \(0.6[45] to 0.6[56]\)\."
    assert any(re.fullmatch(wanted, line) for line in telling.of_task("language", cells))
    assert not any(re.fullmatch(wanted, line) for line in telling.of_task("digits", cells))


def test_the_best_of_k_is_that_of_many_draws():
    ends, rng = [1.0, 2.0, 4.0, 8.0, math.inf], np.random.default_rng(0)
    for k in (1, 2, 4):
        drawn = rng.choice(ends, (20_000, k)).min(1)
        for q in (0.1, 0.5, 0.9):
            least = trials.best_of(ends, k, q)
            assert (drawn < least).mean() < q <= (drawn <= least).mean()  # none of the shares is near these
    assert trials.best_of(ends, 1) == 4.0 and trials.best_of(ends, 4) == 1.0


def test_yardsticks_of_a_text_that_is_known():
    """A byte that tells the next: nothing is left; half of the bytes each: log 2."""
    text = np.tile([3, 7], 50_000)
    assert yardsticks.of_frequencies(text, text, 1) < 0.01
    np.testing.assert_allclose(yardsticks.of_frequencies(text, text, 0), math.log(2), rtol=1e-2)
    np.testing.assert_allclose(yardsticks.compressed(text, lambda x: x[: len(x) // 8]), math.log(2))


@pytest.mark.full
def test_a_share_of_the_time_is_that_of_the_steps_times_what_a_step_takes(tmp_path):
    cells = {name: record(tmp_path, name, tune=[2.0], final=[1.999, 2.0, 2.001]) for name in ("adamw", "nadamw")}
    early = {"tune": [1.0], "final": [0.9, 1.0, 1.1]}
    cells["soon"] = record(tmp_path, "soon", steps_600=[1.8] * 3, steps_400=[2.2] * 3, **early)
    cells["bound"] = record(tmp_path, "bound", steps_400=[1.9] * 3, **early)
    cells["late"] = record(tmp_path, "late", tune=[1.9], final=[1.8, 1.95, 2.1], steps_400=[2.1, 2.2, 2.3])
    rows = {row.method: row for row in figures.table(cells)}
    for method, steps, time in (
        ("soon", "0.49 (0.49 to 0.49)", "0.73 (0.73 to 0.74)"),
        ("bound", "at most 0.40", "at most 0.60"),
        ("late", "0.83 (0.62 to 1)", "1.25 (0.92 to 1.50)"),
    ):
        assert (telling.share(rows[method]), telling.share(rows[method], 1.5)) == (steps, time)


def test_a_shorter_run_that_diverges_bounds_the_share(tmp_path):
    kept = record(tmp_path, "d", tune=[1.9], final=[1.8] * 3, steps_500=[math.inf] * 3)
    assert figures.how_soon(kept, [2.0, 2.1, 1.9])[0] == 1


def test_a_record_with_runs_that_diverged_is_read_and_added_to(tmp_path):
    for stage in ("tune", "final"):
        kept = Record("t", "m", tmp_path)
        kept.add(stage, [{"rate": 0.1}], [0], [[2.0, math.inf]], [math.inf], 1)
    again = Record("t", "m", tmp_path)
    assert [(r["stage"], r["curve"], r["end"]) for r in again.runs] == [
        ("tune", [2.0, math.inf], math.inf),
        ("final", [2.0, math.inf], math.inf),
    ]


class Fake:
    """Ends that depend on the rate alone."""

    def __init__(self, end):
        self.end = end

    def run(self, points, seeds, steps):
        return [[]] * len(points), [self.end(p["rate"]) for p in points], []


@pytest.mark.parametrize(
    ("end", "stages"),
    [
        (lambda rate: abs(math.log(rate / 0.05)), ["tune"]),
        (lambda rate: abs(math.log(rate / 1.05)), ["tune", "wider 1"]),  # the best is at the edge, and so beyond it
        (lambda rate: -math.log(rate), ["tune", "wider 1", "wider 2"]),
        (lambda rate: -math.log(rate) if rate < 1 else math.inf, ["tune", "wider 1"]),  # beyond it nothing is better
    ],
)
def test_ranges_grow_while_what_is_beyond_the_edge_is_better(tmp_path, end, stages):
    kept = Record("factors", "sgd", tmp_path)  # whose rates are 0.003 to 1
    one = cell.Cell(tasks.task("factors"), methods.METHODS["sgd"], kept, str)
    one.trainer = Fake(end)
    one.tune()
    found = [s for s in dict.fromkeys(run["stage"] for run in kept.runs) if s != "again"]
    assert found == stages
    assert all(r["point"]["rate"] > 1 for r in kept.stage("wider 1"))
    runs = list(kept.runs)
    one.tune()
    assert kept.runs == runs  # nothing is left to run


@pytest.mark.full
def test_a_table_is_judged_against_the_better_baseline(tmp_path):
    rng = np.random.default_rng(0)
    ends = {"adamw": 2.0, "nadamw": 1.9, "muon": 1.5, "sgd": 3.0}
    cells = {
        name: record(tmp_path, name, tune=[end], final=list(end + 0.1 * rng.normal(size=8)), untuned=[end + 1])
        for name, end in ends.items()
    }
    assert figures.baseline(cells) == "nadamw" and figures.baseline({"adamw": cells["adamw"]}) is None
    rows = figures.table(cells)
    assert [row.method for row in rows] == ["muon", "nadamw", "adamw", "sgd"]
    muon, nadamw, _, sgd = rows
    base, own = cells["nadamw"].ends("final"), cells["muon"].ends("final")
    assert muon.better == pytest.approx((np.mean(base) - np.mean(own)) / np.std(base, ddof=1))
    assert muon.p < 1e-6 and sgd.p > 1 - 1e-6 and math.isnan(nadamw.p) and sgd.sooner == math.inf
    sigma, wide = np.std(base, ddof=1), np.mean(base) - 0.2 + 5 * (np.array(base) - np.mean(base))
    cells["lion"] = record(tmp_path, "lion", tune=[1.7], final=list(wide))
    lion = next(row for row in figures.table(cells) if row.method == "lion")
    assert lion.better == pytest.approx(0.2 / sigma)
    t, freedom = 0.2 / (sigma * math.sqrt((25 + 1) / 8)), 7 * (25 + 1) ** 2 / (25**2 + 1)  # its own spread counts
    assert lion.p == pytest.approx(stats.t.sf(t, freedom)) and lion.p > 0.05
    cells["sgd"].runs[1]["end"] = math.inf  # one seed of eight
    assert figures.table(cells)[-1].mean == math.inf and figures.table(cells)[-1].p == 1
    text = "\n".join(telling.of_task("t", cells))
    assert "**[nadamw](../benchmarks/results/race/" in text and "5 methods, 8 seeds" in text
    assert "diverged" in text and "not reached" in text


def test_records_keep_infinity_and_go_on(tmp_path):
    kept = record(tmp_path, "a b", tune=[math.inf, 1.5])
    assert all(json.loads(line) for line in kept.path.read_text().splitlines())
    again = Record("t", "a b", tmp_path)
    assert again.ends("tune") == [math.inf, 1.5] and again.trials()[0]["end"] == 1.5 and again.about == kept.about


@pytest.mark.full
def test_two_methods_of_a_task_that_run_at_once_keep_all_their_runs(tmp_path):
    """So does a third one that was there. The sections are in the order of their methods."""
    record(tmp_path, "m", final=[2.5])
    ends = [i / 2 for i in range(300)]
    adding = """
import pathlib, sys
from benchmarks.race.records import Record
record = Record("t", sys.argv[1], pathlib.Path(sys.argv[2]))
for i in range(300):
    record.add("final", [{}], [i], [[]], [i / 2], 1)
"""
    command = [sys.executable, "-c", adding]
    both = [subprocess.Popen([*command, name, str(tmp_path)], cwd=telling.ROOT) for name in "zb"]
    assert [one.wait() for one in both] == [0, 0]
    assert [Record("t", name, tmp_path).ends("final") for name in "bmz"] == [ends, [2.5], ends]
    assert list(sections(tmp_path / "t.jsonl")) == ["b", "m", "z"]
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_the_best_point_is_that_of_all_tuning_seeds(tmp_path):
    kept = Record("t", "m", tmp_path)
    kept.about = {"steps": 10}
    points = [{"rate": 1.0}, {"rate": 2.0}, {"rate": 3.0}]
    kept.add("tune", points, [100] * 3, [[]] * 3, [1.0, 1.1, 0.5], 1)
    assert kept.best() == {"rate": 3.0}
    again = [points[2], points[2], points[1], points[1]]
    kept.add("again", again, [101, 102, 101, 102], [[]] * 4, [2.0, math.inf, 1.2, 1.3], 1)
    assert kept.best() == {"rate": 2.0}  # the lucky one is not it


@pytest.mark.full
def test_the_recipe_is_transformer_optimizer():
    """The row of the table is of chains whose length may be traced."""
    params = {"embed": np.ones((5, 4), np.float32), "mlp": {"kernel": np.eye(4, dtype=np.float32)}}
    grads = jax.tree.map(lambda p: p + 0.1, params)
    steps, point = 40, {"rate": 3e-3, "adam_rate": 1e-3, "weight_decay": 0.1}
    ours = makers.recipe(point, steps)
    theirs = gdjax.transformer_optimizer(3e-3, steps, adam_learning_rate=1e-3, weight_decay=0.1, warmup_steps=2)
    state, other = ours.init(params), theirs.init(params)
    for _ in range(2):
        u, state = ours.update(grads, state, params)
        v, other = theirs.update(grads, other, params)
    # In its second step of two the race is at the peak, and theirs, which is there one step later, at 3/4 of it.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 0.75, rtol=1e-5), u, v)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_takes_its_points(name):
    method = methods.METHODS[name]
    assert set(method.untuned) >= set(method.space) and set(method.rates) <= set(method.space)
    params = {"embed": np.ones((5, 4), np.float32), "mlp": {"kernel": np.eye(4, dtype=np.float32)}}
    if method.carried:
        params = jax.eval_shape(lambda key: language.start(key, 128, 2), jax.random.key(0))
    for point in (method.untuned, *spaces.points(method.space, 2)):
        jax.eval_shape(lambda p=point: method.make(p, 10).init(params))


def test_a_larger_task_begins_with_the_point_of_the_smaller_one(tmp_path):
    kept, point = Record("language_128", "sgd", tmp_path), {"rate": 0.5, "weight_decay": 0.01}
    one = cell.Cell(tasks.task("factors"), methods.METHODS["sgd"], kept, str, near=point)
    one.trainer = Fake(lambda rate: abs(math.log(rate / 0.25)))
    one.run()
    assert [r["stage"] for r in kept.runs] == ["as it is"] * 8 + ["tune"] * 8 + ["final"] * 8
    assert kept.stage("as it is")[0]["point"] == point
    assert {r["point"]["rate"] for r in kept.stage("final")} == {0.25} and kept.best()["weight_decay"] == 0.01
    carried = Record("language_128", "recipe, transferred", tmp_path)
    one = cell.Cell(tasks.task("factors"), methods.METHODS["recipe, transferred"], carried, str, near=point)
    one.trainer = Fake(lambda rate: rate)
    one.run()
    assert [r["stage"] for r in carried.runs] == ["final"] * 8 and carried.best() == point


@pytest.mark.slow
def test_the_method_of_a_wider_model_is_the_smaller_ones_transferred():
    """The recipe at width 128: NorMuon's rate and the head's are halved, the embedding's is not."""
    params = language.start(jax.random.key(0), 128, 2)
    point = {"rate": 1e-3, "adam_rate": 1e-3, "weight_decay": 0.0}
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    plain, carried = (methods.METHODS[name].make(point, 10) for name in ("recipe", "recipe, transferred"))
    steps = [tx.update(grads, tx.init(params), params)[0] for tx in (plain, carried)]
    ratios = jax.tree.map(lambda a, b: float(jnp.linalg.norm(b) / jnp.linalg.norm(a)), *steps)
    assert ratios["embed"] == pytest.approx(1) and ratios["head"]["out"] == pytest.approx(0.5, rel=1e-3)
    assert ratios["blocks"][0]["mlp"]["up"] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.slow
def test_fine_tuning_begins_with_the_models_and_forgetting_is_a_number_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "KEPT", tmp_path)
    monkeypatch.setattr(fine_tuning, "FIRST_STEPS", 2)
    task = fine_tuning.adapters()
    pairs = task.start(jax.random.key(0))
    before = float(task.judge(pairs))
    assert {x.shape[-1] for x in jax.tree.leaves(pairs) if x.shape[0] != fine_tuning.RANK} == {fine_tuning.RANK}
    assert f"; {before:.4g} before" in task.unit and f"; {float(task.aside(pairs)):.4g} before" in task.aside_unit
    moved = jax.tree.map(lambda x: x + 1.0, pairs)
    assert float(task.aside(moved)) != float(task.aside(pairs)) and float(task.judge(moved)) != before
    made = fine_tuning.checkpoints("adamw")
    assert all(x.shape[0] == fine_tuning.CHECKPOINTS for x in jax.tree.leaves(made))
    assert float(jnp.ptp(made["embed"], axis=0).min()) > 0  # four models
    kept = record(tmp_path, "m")
    kept.add("final", [{"rate": 0.1}] * 2, [0, 1], [[], []], [1.0, 2.0], 1, [3.0, math.inf])
    assert Record("t", "m", tmp_path).aside("final") == [3.0, math.inf]
    base = record(tmp_path, "base")
    base.add("final", [{"rate": 0.1}] * 3, [0, 1, 2], [[], [], []], [11.0, 2.0, 5.0], 1, [0.0] * 3)
    kept = record(tmp_path, "other")  # seeds in another order; their ends are far apart, their differences are not
    kept.add("final", [{"rate": 0.1}] * 3, [1, 0, 2], [[], [], []], [1.9, 10.7, 4.8], 1, [0.0] * 3)
    gap, width = figures.paired(kept, base)
    assert gap == pytest.approx(-0.2) and width == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)  # t of 2 degrees
    assert telling.front_of([(3, 1), (1, 2), (2, 2), (2.5, 0.5)]) == [(1, 2), (2.5, 0.5)]


@pytest.mark.full
def test_a_tiny_cell_runs_and_resumes(tmp_path):
    said = []
    kept = Record("factors", "sgd", tmp_path)
    one = cell.Cell(tasks.task("factors"), methods.METHODS["sgd"], kept, said.append, tiny=True)
    one.tune()
    one.finish(kept.best())
    assert [r["stage"] for r in kept.runs] == ["tune"] * 4 + ["again"] * 8 + ["final"] * 2 + ["untuned"] * 2
    assert all(math.isfinite(r["end"]) and len(r["curve"]) == 2 for r in kept.runs) and said
    point = kept.best()
    assert kept.stage("final")[0]["point"] == point and kept.ends("final")[0] != kept.ends("final")[1]
    cut = kept.path.read_text().splitlines()
    kept.path.write_text("\n".join(cut[:-3]) + "\n")  # killed before the last three runs
    again = Record("factors", "sgd", tmp_path)
    other = cell.Cell(tasks.task("factors"), methods.METHODS["sgd"], again, said.append, tiny=True)
    other.tune()
    other.finish(again.best())
    assert again.runs == kept.runs


@pytest.mark.full
def test_ends_over_decades_are_judged_by_logarithms(tmp_path):
    ends = {"adamw": [1e-4, 1e-6], "nadamw": [1e-3, 1e-5], "muon": [1e-8, 1e-10]}
    cells = {}
    for name, own in ends.items():
        cells[name] = Record("factors", name, tmp_path)
        cells[name].about = {"steps": 1000, "unit": "share", "data": ""}
        for stage in ("tune", "final", "untuned"):
            cells[name].add(stage, [{"rate": 0.1}] * 2, range(2), [[]] * 2, own, 1)
    muon, adamw, _ = figures.table(cells)
    assert (muon.method, adamw.method) == ("muon", "adamw") and muon.mean == pytest.approx(1e-9)
    assert muon.better == pytest.approx(4 / math.sqrt(2)) and muon.spread == pytest.approx(
        math.exp(math.log(100) / math.sqrt(2))
    )
    assert "× " in "\n".join(telling.of_task("factors", cells))


@pytest.mark.full
def test_figures_of_the_page_on_choosing_are_those_of_their_records():
    """A number that links to a record is the method's mean there, or that of the smaller task's point as it is, or its
    untuned mean over the baseline's.
    """
    page = (telling.ROOT / "docs" / "choose.md").read_text("utf-8")
    cards = page.partition("<!-- race: made")[0]
    found = re.findall(r"\[([\d.e-]+)\]\(\.\./benchmarks/results/race/(\w+)\.jsonl#([^)]+)\)", cards)
    assert len(found) > 25
    records = figures.read()
    for said, task, section in found:
        own = records[task][section.replace("_", " ")]
        goal = figures.typical(records[task][str(figures.baseline(records[task]))], "final")
        digits = len(said.partition("e")[0].replace(".", "").lstrip("0"))
        values = [figures.typical(own, "final"), figures.typical(own, "untuned") / goal]
        values += [figures.typical(own, "as it is")] if own.stage("as it is") else []
        right = {f"{x:.{digits - 1}e}" for x in values}
        assert f"{float(said):.{digits - 1}e}" in right, f"{task}, {section}: {said} is none of {right}"


def test_a_task_that_nothing_is_tuned_on_runs_the_given_point(tmp_path):
    kept, point = Record("recurrent", "sgd", tmp_path), {"rate": 0.5, "weight_decay": 0.01}
    cell.Cell(tasks.task("factors"), methods.METHODS["sgd"], kept, str, tiny=True, given=point).run()
    assert [r["stage"] for r in kept.runs] == ["final"] * 2 + ["untuned"] * 2
    assert kept.best() == point == kept.stage("final")[1]["point"]


def test_one_configuration_is_a_trial_of_all_tasks(tmp_path):
    """The second trial is never the best of a task, and the best of both."""
    of = {"digits": [1.0, 2.0, 9.0], "modular": [9.0, 2.0, 1.0]}
    records = {}
    for task, ends in of.items():
        records[task] = {}
        for name in ("adamw", "nadamw"):
            kept = records[task][name] = Record(task, name, tmp_path)
            kept.about = {"steps": 1, "unit": "", "data": ""}
            kept.add("tune", [{"rate": float(i)} for i in range(3)], [0] * 3, [[]] * 3, ends, 1)
            kept.add("final", [{"rate": 1.0}] * 2, [0, 1], [[]] * 2, [1.0, 1.0], 1)
            kept.add("untuned", [{"rate": 1.0}] * 2, [0, 1], [[]] * 2, [4.0, 4.0], 1)
    row = figures.one_configuration(records)[0]
    assert row.point == {"rate": 1.0} and row.value == pytest.approx(2) and row.untuned == pytest.approx(4)
    assert len(figures.one_configuration({"digits": records["digits"], "modular": {}})) == 2  # no baseline there yet


def test_the_mean_of_untuned_points_counts_a_ratio_as_ten_at_most_and_shows_it_whole(tmp_path):
    ratios = {"digits": {"recipe": 0.5, "normuon": 1.0, "adamw": 2.0, "nadamw": 4.0}}
    ratios["autoencoder"] = {"recipe": 2.0, "normuon": 4.0, "adamw": 50.0, "nadamw": 1.0}
    records = {task: {} for task in (*ratios, "language")}
    for task, of in ratios.items():
        for name, ratio in of.items():
            kept = records[task][name] = Record(task, name, tmp_path)
            kept.about = {"steps": 1, "unit": "", "data": ""}
            goal = 3.0 if name == "nadamw" else 4.0
            kept.add("final", [{}] * 2, [0, 1], [[]] * 2, [goal] * 2, 1)
            kept.add("untuned", [{}] * 2, [0, 1], [[]] * 2, [3.0 * ratio] * 2, 1)
    over, rows = figures.untuned_everywhere(records)
    assert over == ["digits", "autoencoder"]  # nothing ran on the third
    assert [row.method for row in rows] == ["recipe", "nadamw", "normuon", "adamw"]
    assert [row.mean for row in rows] == pytest.approx([1, 2, 2, 20**0.5])
    text = "\n".join(telling.of_untuned(records))
    assert "| **mean** | **1.000** | **2.000** | **2.000** | **4.472** |" in text
    assert "| autoencoder | 2 | 1 | 4 | 50 |" in text


def test_an_open_run_is_read_on_its_way_and_a_planned_one_at_its_end(tmp_path):
    """Curves have a number for every 50 steps. The point that is best over all lengths is not the best of one."""
    lengths = anytime.LENGTHS
    curve = lambda f: [f(50 * (i + 1)) for i in range(lengths[-1] // 50)]
    planned, free = Record("anytime", anytime.PLANNED, tmp_path), Record("anytime", "averaged adamw", tmp_path)
    tried = [{"rate": float(i)} for i in range(2)]
    for n in lengths:
        planned.add(f"tune {n}", tried, [100] * 2, [[]] * 2, [2.0, 1.0 if n < 800 else 3.0], 1)
        planned.add(f"final {n}", [tried[0]] * 8, range(8), [[]] * 8, [n / 100] * 8, 1)
    assert anytime.best(planned, anytime.PLANNED, 400, lengths) == tried[1]
    assert anytime.best(planned, anytime.PLANNED, 1600, lengths) == tried[0]
    shapes = [curve(lambda n: 9.0 if n < 3000 else 1.0), curve(lambda n: 2.0)]
    free.add(f"tune {lengths[-1]}", tried, [100] * 2, shapes, [1.0, 2.0], 1)
    assert anytime.best(free, "averaged adamw", lengths[-1], lengths) == tried[1]
    free.add(f"final {lengths[-1]}", [tried[1]] * 8, range(8), [curve(lambda n: n / 50)] * 8, [64.0] * 8, 1)
    text = "\n".join(anytime.table(tmp_path))
    assert "| averaged adamw | 4.000 (2.000) | 8.000 (2.000) |" in text and "64.000 (2.000)" in text
    assert anytime.table(tmp_path / "nothing") == []
