"""The clock: a fake one that only moves while someone computes."""

import pytest

from batchnorm.bench import timing
from batchnorm.bench.timing import MIN_ROUNDS, Step, Stopwatch, interleave, spread


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 100.0
        self.calls = []

    def __call__(self):
        return self.now

    def step(self, name, forward, backward=None):
        """An implementation whose phases take so many seconds."""

        def run(phase, seconds):
            self.calls.append((name, phase))
            self.now += seconds
            return object()

        return Step(
            lambda: run("forward", forward),
            None if backward is None else lambda output: run("backward", backward),
        )


def test_every_phase_is_timed_by_itself():
    clock = Clock()
    found = interleave({"a": clock.step("a", 0.25, 0.5)}, 0.0, Stopwatch(clock))["a"]
    assert found == {
        "forward": [0.25] * MIN_ROUNDS,
        "backward": [0.5] * MIN_ROUNDS,
        "both": [0.75] * MIN_ROUNDS,
    }


def test_without_gradients_there_is_a_forward_only():
    clock = Clock()
    assert set(interleave({"a": clock.step("a", 0.25)}, 0.0, Stopwatch(clock))["a"]) == {"forward"}


def test_the_first_call_of_a_turn_is_not_counted():
    clock = Clock()
    found = interleave(
        {"a": clock.step("a", 1.0), "b": clock.step("b", 1.0)}, 0.0, Stopwatch(clock)
    )
    assert len(clock.calls) == 2 * 2 * MIN_ROUNDS
    assert [len(samples["forward"]) for samples in found.values()] == [MIN_ROUNDS] * 2


def test_turns_rotate():
    clock = Clock()
    names = ("a", "b", "c")
    interleave({name: clock.step(name, 1.0) for name in names}, 0.0, Stopwatch(clock))
    turns = "".join(name for name, _ in clock.calls[::2])
    assert turns == "abcbcacababcbca"


def test_small_steps_get_many_calls_in_a_turn_and_large_ones_one(monkeypatch):
    monkeypatch.setattr(timing, "TURN", 0.25)
    clock = Clock()
    steps = {"small": clock.step("small", 0.25 / 8), "large": clock.step("large", 0.75)}
    found = interleave(steps, 0.0, Stopwatch(clock))
    assert len(found["small"]["forward"]) == 8 * MIN_ROUNDS
    assert len(found["large"]["forward"]) == MIN_ROUNDS


def test_rounds_go_on_until_the_time_is_spent():
    clock = Clock()
    interleave({"a": clock.step("a", 1.0), "b": clock.step("b", 2.0)}, 60.0, Stopwatch(clock))
    assert 160.0 <= clock.now < 160.0 + 6.0, "a round takes 6 seconds, half of them not counted"


def test_nothing_to_time_ends_at_once():
    assert interleave({}, 1e9, Stopwatch()) == {}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([7.0], (7.0, 7.0, 7.0, 7.0, 1)),
        ([1.0, 3.0], (2.0, 1.5, 2.5, 1.0, 2)),
        ([9.0, 1.0, 5.0, 3.0, 7.0], (5.0, 3.0, 7.0, 1.0, 5)),
    ],
    ids=["one", "two", "five"],
)
def test_spread(samples, expected):
    assert spread(samples) == expected
