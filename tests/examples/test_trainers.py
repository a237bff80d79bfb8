"""The examples with trainers of others, which are the real ones here."""

import pytest

from . import example

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.*:FutureWarning")


def test_lightning():
    (result,) = example("train_with_lightning").main(epochs=2, seeds=1)
    assert [row["step"] for row in result.logged] == [0, 7, 14, 21, 28, 35]
    # After 42 steps of momentum 0.01, two thirds of the running statistics are what they began as.
    assert result.logged[-1]["batchnorm/model.3/mean_error"] > 0.2
    assert result.logged[0]["batchnorm/model.1/effective_batch"] > 64
    assert result.after > max(result.before, 0.9)


def test_the_callback_of_lightning_measures_the_training_data():
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    import batchnorm as bn

    module = example("train_with_lightning")
    x = torch.randn(96, 3) + 2
    model = nn.Sequential(bn.BatchNorm1d(3))
    trainer = type("Trainer", (), {"train_dataloader": DataLoader(TensorDataset(x), 32)})
    module.Recalibrate().on_train_end(trainer, model)
    torch.testing.assert_close(model[0].running_mean, x.mean(0))
    torch.testing.assert_close(model[0].running_var, x.var(0))


@pytest.mark.slow
def test_hugging_face():
    example_of = example("train_with_trainer")
    (result,) = example_of.main(epochs=1, seeds=1)
    assert result.converted == 6
    assert [row["step"] for row in result.logged] == [0, 7, 14]
    assert example_of.worst(result.logged[0]) > 0.5 > example_of.worst(result.logged[-1])
    assert result.after["eval_loss"] < result.before["eval_loss"]
    assert result.after["eval_accuracy"] > 0.7
