"""`bn.Monitor` as a callback of Lightning, and as one of the Trainer of Hugging Face.

    trainer = lightning.Trainer(callbacks=[LightningMonitor(every=100)])

    trainer = transformers.Trainer(...)
    trainer.add_callback(TrainerMonitor(trainer, every=100))

The numbers go where those of the trainer go: TensorBoard, Weights & Biases, files.
"""

from typing import Any

import batchnorm as bn

try:
    from lightning.pytorch import Callback
except ImportError:  # the one below is of no use then, but the other is
    Callback = object

try:
    from transformers import TrainerCallback
except ImportError:
    TrainerCallback = object


class LightningMonitor(Callback):
    """Give what `bn.Monitor` measures to the loggers of a Lightning trainer.

    Args:
        every: Training forwards from one measurement to the next.
    """

    def __init__(self, every: int = 100) -> None:
        self.every = every

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch."""

        def log(values: dict[str, float], step: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)

        self.monitor = bn.Monitor(pl_module, self.every, log if trainer.is_global_zero else _drop)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop."""
        self.monitor.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop as well."""
        if hasattr(self, "monitor"):
            self.monitor.close()


class TrainerMonitor(TrainerCallback):
    """Give what `bn.Monitor` measures to the Trainer of Hugging Face, which knows its trackers.

    Args:
        trainer: Its `log` gets the numbers.
        every: Training forwards from one measurement to the next; with gradients accumulated,
            each micro-batch is one.
    """

    def __init__(self, trainer: Any, every: int = 100) -> None:
        self.trainer, self.every = trainer, every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to watch."""
        self.monitor = bn.Monitor(
            kwargs["model"], self.every, lambda values, step: self.trainer.log(values)
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        self.monitor.close()


def _drop(values: dict[str, float], step: int) -> None:
    """Write nothing: another process does."""
