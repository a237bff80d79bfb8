"""The clock of a GPU, beside one whose every time is known."""

import pytest
import torch

from batchnorm.bench.events import MOST_CALLS, TRIES, TURN, Events, Gpu
from batchnorm.bench.timing import MIN_ROUNDS, Step, host, interleave

from .gpu import FakeGpu

CASES = {
    "the GPU is slower": ((1e-4, 3e-3), (2e-4, 5e-3)),
    "the host is slower": ((2e-4, 1e-5), (3e-4, 2e-5)),
    "alike": ((1e-4, 1e-4), (1e-4, 1e-4)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_time_is_that_of_the_gpu_and_the_host_s_stands_beside(name):
    gpu = FakeGpu()
    forward, backward = CASES[name]
    samples = {}
    Events(gpu, gpu).turn(gpu.step(forward, backward), samples)
    expected = {
        "forward": forward[1],
        "backward": backward[1],
        "both": forward[1] + backward[1],
        host("forward"): forward[0],
        host("backward"): backward[0],
        host("both"): forward[0] + backward[0],
    }
    assert set(samples) == set(expected)
    for phase, seconds in expected.items():
        assert samples[phase] == pytest.approx([seconds] * len(samples[phase])), phase


def test_without_gradients_there_is_a_forward_only():
    gpu = FakeGpu()
    samples = {}
    Events(gpu, gpu).turn(gpu.step((1e-5, 2e-3)), samples)
    assert set(samples) == {"forward", host("forward")}


@pytest.mark.parametrize(
    ("seconds", "calls"), [(TURN * 3, 1), (TURN / 4, 4), (TURN / 1000, MOST_CALLS)]
)
def test_a_turn_is_some_milliseconds_and_one_call_more(seconds, calls):
    gpu = FakeGpu()
    samples = {}
    Events(gpu, gpu).turn(gpu.step((0.0, seconds)), samples)
    assert len(samples["forward"]) == calls
    assert len(gpu.calls) == calls + 1


def test_the_fill_is_long_enough_for_the_host_to_queue_all_calls():
    gpu = FakeGpu(fill=1e-4)
    clock = Events(gpu, gpu)
    clock.turn(gpu.step((1e-3, 0.0)), {})
    before = gpu.fills
    clock.turn(gpu.step((1e-3, 0.0)), {})
    # 5 calls of 1 ms of the host, twice that to be sure, by fills of 0.1 ms
    assert gpu.fills - before == pytest.approx(2 * 5 * 10, abs=1)


def test_a_host_that_becomes_slower_is_noticed_and_the_turn_queued_again():
    gpu = FakeGpu()
    slow = iter([1e-5] + 4 * [1e-3])
    seen = []

    def forward():
        seen.append(next(slow, 1e-5))
        gpu.now += seen[-1]
        gpu.work(TURN / 4)
        return object()

    samples = {}
    Events(gpu, gpu).turn(Step(forward), samples)
    assert len(seen) == 1 + 4 + 4, "one uncounted, four that came too late, four that count"
    assert samples["forward"] == pytest.approx([TURN / 4] * 4)


def test_the_work_before_a_turn_grows_until_it_is_enough():
    """The first call takes the host 0.1 ms, all others half a millisecond."""
    gpu = FakeGpu()
    hosts = iter([1e-4])

    def forward():
        gpu.now += next(hosts, 5e-4)
        gpu.work(TURN / 4)
        return object()

    samples = {}
    Events(gpu, gpu).turn(Step(forward), samples)
    assert samples["forward"] == pytest.approx([TURN / 4] * 4)
    assert samples[host("forward")] == pytest.approx([5e-4] * 4)
    # 9 to time a fill of 0.1 ms; 8 for twice 4 calls of 0.1 ms, then three times as many
    assert gpu.fills == pytest.approx(9 + 8 + 24, abs=2)


def test_what_waits_by_itself_counts_as_it_is():
    gpu = FakeGpu()
    samples = {}
    Events(gpu, gpu).turn(gpu.step((1e-3, 2e-3), waits=True), samples)
    calls = len(samples["forward"])
    assert len(gpu.calls) == 1 + TRIES * calls
    # The GPU passes the beginning at once; host and GPU work one after the other.
    assert samples["forward"][-1] == pytest.approx(3e-3)


def test_turns_are_interleaved_as_on_the_cpu():
    gpu = FakeGpu()
    steps = {name: gpu.step((1e-5, 2 * TURN), name=name) for name in "abc"}
    found = interleave(steps, 0.0, Events(gpu, gpu))
    assert "".join(name for name, _ in gpu.calls[::2]) == "abcbcacababcbca"
    assert {len(samples["forward"]) for samples in found.values()} == {MIN_ROUNDS}


def test_a_measurement_ends_after_its_time():
    gpu = FakeGpu()
    interleave({"a": gpu.step((1e-5, 1e-2))}, 1.0, Events(gpu, gpu))
    assert 1.0 <= gpu.now < 1.1


@pytest.mark.gpu
def test_a_gpu_takes_the_time_of_what_it_is_given():
    """A copy of n bytes and one of 4n: the events see the difference, the host's clock does not."""
    device = torch.device("cuda", torch.cuda.current_device())
    clock = Events(Gpu(device, 2**28))
    medians = {}
    for size in (2**28, 2**30):
        x = torch.empty(size, dtype=torch.uint8, device=device)
        y = torch.empty_like(x)
        step = Step(lambda x=x, y=y: y.copy_(x))
        samples = interleave({"copy": step}, 0.1, clock)["copy"]
        medians[size] = sorted(samples["forward"])[len(samples["forward"]) // 2]
        assert min(samples["forward"]) > 0
    assert 3 < medians[2**30] / medians[2**28] < 5
