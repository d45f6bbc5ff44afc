"""The progress line on a terminal and in a log, and metrics fetched in chunks."""

import io
import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.training import progress
from gdjax.training.progress import Progress, Recorder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until the test moves `now`."""
    fake = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: fake.now)
    return fake


class Unread:
    """A metric that must not be read."""

    def __float__(self) -> float:
        raise AssertionError("read although no line is due")


def test_plain_lines_at_intervals(clock: SimpleNamespace):
    stream = io.StringIO()
    with Progress(100, stream=stream, interval=10.0) as bar:
        for step in range(1, 31):
            clock.now += 1.0
            bar.update(step, loss=1 / step)
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"step {k}/100" for k in (1, 11, 21, 30)]
    assert lines[1] == "step 11/100  1 steps/s  1:29 left  loss 0.09091"
    assert "\r" not in stream.getvalue()


def test_terminal_redraws_one_line(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    bar = Progress(4, stream=stream)
    for step in range(1, 5):
        clock.now += 0.5
        bar.update(step, loss=10.0 ** (4 - step), name="x")
    assert "\n" not in stream.getvalue()
    bar.close()
    bar.close()
    frames = stream.getvalue().removesuffix("\n").split("\r")[1:]
    assert frames[0].startswith(" 25% [###.........] 1/4  loss 1000  name x")
    assert frames[3].startswith("100% [############] 4/4  2 steps/s  loss 1  name x")
    assert stream.getvalue().count("\n") == 1


def test_shorter_line_blanks_out_the_longer_one(clock: SimpleNamespace):
    stream = Terminal()
    bar = Progress(stream=stream, interval=0.0)
    bar.update(1, name="abcdef")
    bar.update(1, name="g")
    assert stream.getvalue() == "\rstep 1  name abcdef\rstep 1  name g     "


def test_terminal_line_never_wraps(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with Progress(4, stream=stream) as bar:
        bar.update(1, loss=1.0, something_with_a_long_name=2.0)
    assert max(map(len, re.split("[\r\n]", stream.getvalue()))) == 39


def test_rate_excludes_the_first_step(clock: SimpleNamespace):
    stream = io.StringIO()
    with Progress(stream=stream) as bar:
        clock.now += 60.0  # compilation
        bar.update(1)
        clock.now += 2.0
        bar.update(5)
    assert stream.getvalue().splitlines() == ["step 1", "step 5  2 steps/s"]


def test_metrics_are_read_only_when_shown(clock: SimpleNamespace):
    stream = io.StringIO()
    bar = Progress(10, stream=stream, interval=5.0)
    bar.update(1, loss=jnp.float32(0.5))
    clock.now += 1.0
    bar.update(2, loss=Unread())
    bar.update(3, loss=np.float32(0.25))
    bar.close()
    assert re.findall(r"step (\d+)/10.*  loss (\S+)", stream.getvalue()) == [("1", "0.5"), ("3", "0.25")]


def test_default_stream_is_stderr(capsys: pytest.CaptureFixture[str]):
    Progress(2)(2, loss=0.125)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "step 2/2  loss 0.125\n")


def test_no_update_shows_nothing():
    stream = Terminal()
    with Progress(5, stream=stream):
        pass
    assert stream.getvalue() == ""


def test_hours_left(clock: SimpleNamespace):
    stream = io.StringIO()
    with Progress(3601, stream=stream) as bar:
        bar.update(1)
        clock.now += 10.0
        bar.update(11)
    assert stream.getvalue().splitlines()[-1] == "step 11/3601  1 steps/s  59:50 left"
    assert progress._clock(3600 * 2 + 61) == "2:01:01"


def test_recorder_fetches_in_chunks_of_known_speed(clock: SimpleNamespace):
    recorder, sizes, rows = Recorder(), [], []
    for k in range(300):
        clock.now += 0.01  # so that 20 steps are 0.2 seconds
        fetched = recorder.add({"k": jnp.int32(k)})
        rows += fetched
        sizes += [len(fetched)] if fetched else []
    rows += recorder.fetch()
    assert [row["k"] for row in rows] == list(range(300)), "every step once, in order"
    assert sizes[0] == 1 and set(sizes[2:]) <= {19, 20}
    assert recorder.fetch() == []


def test_recorder_bounds_its_chunks(clock: SimpleNamespace):
    recorder, sizes = Recorder(), []
    for k in range(500):
        sizes.append(len(recorder.add(k)))  # at no time at all
    assert max(sizes) == progress.CHUNK_STEPS
    clock.now += 1000.0  # a slow chunk: the next is one step
    while not recorder.add(0):
        pass
    clock.now += 1.0
    assert len(recorder.add(0)) == 1


def test_recorder_that_waits(clock: SimpleNamespace):
    recorder = Recorder(wait=True)
    assert [recorder.add(k) for k in range(5)] == [[k] for k in range(5)]
