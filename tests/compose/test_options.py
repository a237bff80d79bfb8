import torch

from batchnorm.compose.options import correction


def test_corrections_of_several_chunks_use_the_statistics_of_their_channel():
    running = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 8.0])
    correct = correction(running, (1.5, 0.5), eps=1.0)
    # Two chunks of two channels; running standard deviations 2 and 3.
    mean, var = torch.tensor([1.5, 9.0, 0.0, -9.0]), torch.tensor([3.0, 35.0, 0.0, 8.0])
    r, d = correct(mean, var)
    torch.testing.assert_close(r, torch.tensor([1.0, 1.5, 1 / 1.5, 1.0]))
    torch.testing.assert_close(d, torch.tensor([0.25, 0.5, -0.5, -0.5]))


def test_correction_takes_limits_that_are_tensors():
    running = torch.tensor([1.0]), torch.tensor([3.0])
    limits = torch.tensor(1.5), torch.tensor(0.25)
    r, d = correction(running, limits, eps=1.0)(torch.tensor([5.0]), torch.tensor([99.0]))
    assert (r.item(), d.item()) == (1.5, 0.25)
