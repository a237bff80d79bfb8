"""For all tests: one thread each, as several test processes share the processors."""

import torch

torch.set_num_threads(1)
