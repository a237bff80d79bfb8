"""A GPU that is not there: a queue that is worked off while the host's time passes."""

from batchnorm.bench.timing import Step


class Mark:
    """An event, passed when everything queued before it is done."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.at = None

    def record(self):
        self.at = max(self.gpu.now, self.gpu.free)

    def query(self):
        return self.at <= self.gpu.now

    def elapsed_time(self, end):
        assert end.at <= self.gpu.now, "read before the GPU was there"
        return 1e3 * (end.at - self.at)


class FakeGpu:
    """Host and GPU, each with a clock; seconds.

    Args:
        fill: What a fill takes.
    """

    def __init__(self, fill=1e-4):
        self.now = self.free = 0.0
        self.fill_seconds = fill
        self.fills = 0
        self.calls = []

    def __call__(self):
        return self.now

    def mark(self):
        return Mark(self)

    def work(self, seconds):
        self.free = max(self.now, self.free) + seconds

    def fill(self):
        self.fills += 1
        self.work(self.fill_seconds)

    def synchronize(self):
        self.now = max(self.now, self.free)

    def step(self, forward, backward=None, name="", waits=False):
        """A step whose phases are (seconds of the host, seconds of the GPU)."""

        def run(phase, host, device):
            self.calls.append((name, phase))
            self.now += host
            self.work(device)
            if waits:
                self.synchronize()
            return object()

        return Step(
            lambda: run("forward", *forward),
            None if backward is None else lambda output: run("backward", *backward),
        )
