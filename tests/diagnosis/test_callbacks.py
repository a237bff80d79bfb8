"""The callbacks of `examples/callbacks.py` for trainers of others.

Here they are called in the order in which the trainers call them; in whole trainings they run in
tests/examples/test_trainers.py.
"""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

PATH = Path(__file__).parents[2] / "examples" / "callbacks.py"


@pytest.fixture(scope="module")
def callbacks():
    spec = importlib.util.spec_from_file_location("example_callbacks", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


class Logger:
    def __init__(self):
        self.logged = []

    def log_metrics(self, metrics, step=None):
        self.logged.append((step, metrics))


def run_like_lightning(callback, trainer, model, steps):
    callback.on_train_start(trainer, model)
    for _ in range(steps):
        model(torch.randn(8, 3))
    callback.on_train_end(trainer, model)


def test_loggers_of_lightning_get_the_numbers(callbacks):
    trainer = SimpleNamespace(loggers=[Logger(), Logger()], is_global_zero=True)
    model = network()
    run_like_lightning(callbacks.LightningMonitor(every=2), trainer, model, 5)
    for logger in trainer.loggers:
        assert [step for step, _ in logger.logged] == [0, 2, 4]
        assert logger.logged[0][1]["batchnorm/1/effective_batch"] == 8.0
    assert not model[1]._forward_pre_hooks


def test_one_process_of_lightning_writes(callbacks):
    trainer = SimpleNamespace(loggers=[Logger()], is_global_zero=False)
    run_like_lightning(callbacks.LightningMonitor(every=1), trainer, network(), 2)
    assert not trainer.loggers[0].logged


def test_an_exception_takes_the_hook_away(callbacks):
    trainer = SimpleNamespace(loggers=[], is_global_zero=True)
    model, callback = network(), callbacks.LightningMonitor()
    callback.on_exception(trainer, model, ValueError())
    callback.on_train_start(trainer, model)
    callback.on_exception(trainer, model, ValueError())
    assert not model[1]._forward_pre_hooks


def test_the_log_of_hugging_face_gets_the_numbers(callbacks):
    pytest.importorskip("transformers")
    from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

    model, logged = network(), []
    trainer = SimpleNamespace(log=logged.append)
    callback = callbacks.TrainerMonitor(trainer, every=2)
    handler = CallbackHandler([callback], model, None, None, None)
    args, state, control = SimpleNamespace(), TrainerState(), TrainerControl()
    handler.on_train_begin(args, state, control)
    for _ in range(3):
        handler.on_step_begin(args, state, control)
        model(torch.randn(8, 3))
        handler.on_step_end(args, state, control)
    handler.on_train_end(args, state, control)
    assert len(logged) == 2
    assert logged[0]["batchnorm/1/effective_batch"] == 8.0
    assert not model[1]._forward_pre_hooks
