"""Train with the Trainer of Hugging Face: watch batch normalization, measure it at the end.

    python examples/train_with_trainer.py        # needs transformers and accelerate

A small ResNet of transformers learns digits. `bn.convert` first gives it the layers of this
library, with activations and additions inside; `TrainerMonitor` of examples/callbacks.py gives the
numbers of `bn.Monitor` to the Trainer's log; and `Recalibrate` below measures the running
statistics anew when training is over.

It prints:

    6 layers converted

    step  mean_error
    0           1.52
    21          0.27
    42          0.24

                         accuracy, %           loss
    as training left it   95.9 ± 3.0  0.138 ± 0.070
    measured anew         97.3 ± 1.2  0.093 ± 0.029

"mean_error" is the largest of all layers and seeds: how far a running mean is from the mean of the
batch at hand, in standard deviations. Then loss and accuracy on test digits, with 95 % intervals
over seeds. The running statistics were not far off at the end, but the weights still moved, and
what is measured once they stand still is better yet.
"""

from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import altair as alt
import transformers
from callbacks import TrainerMonitor
from pictures import BLUE, ORANGE, curves
from shared import digits, interval, percent, run, show
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers.trainer_callback import PrinterCallback

import batchnorm as bn


class Result(NamedTuple):
    """What training came to."""

    converted: int
    """Layers of transformers that were replaced."""
    before: dict[str, float]
    """Loss and accuracy with the running statistics as training has left them."""
    after: dict[str, float]
    logged: list[dict[str, float]]
    """What the monitor has written to the Trainer's log."""


class Images(Dataset[dict[str, Tensor]]):
    """Digits as the models of transformers take images."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = F.interpolate(x, size=16), y

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.y)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Give one image and what it shows."""
        return {"pixel_values": self.x[i], "labels": self.y[i]}


class Recalibrate(transformers.TrainerCallback):
    """Measure the running statistics on the training data when training is over."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One pass over the loader; batches are dictionaries of arguments."""
        bn.recalibrate(kwargs["model"], kwargs["train_dataloader"], progress=False)


def network(example: Tensor) -> tuple[Any, int]:
    """Make a ResNet of six normalizations, all replaced by ours."""
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        layer_type="basic",
        num_labels=10,
    )
    model = transformers.ResNetForImageClassification(config)
    converted, changes = bn.convert(model, example)
    return converted, sum(change.action.startswith("convert") for change in changes)


def accuracy(found: Any) -> dict[str, float]:
    """Count correct answers."""
    return {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())}


def train(seed: int, epochs: int) -> Result:
    """Train with both callbacks."""
    data = digits(seed)
    train, test = Images(data.x, data.y), Images(data.test_x, data.test_y)
    transformers.set_seed(seed)
    model, converted = network(train[0]["pixel_values"].unsqueeze(0))
    with TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=450,
            dataloader_drop_last=True,
            optim="sgd",
            optim_args="momentum=0.9",
            learning_rate=0.05,
            lr_scheduler_type="constant",
            seed=seed,
            eval_strategy="epoch",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = transformers.Trainer(
            model, arguments, train_dataset=train, eval_dataset=test, compute_metrics=accuracy
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(TrainerMonitor(trainer, every=7))
        trainer.add_callback(Recalibrate)
        trainer.train()
        history = trainer.state.log_history
        before = [row for row in history if "eval_loss" in row][-1]
        after = trainer.evaluate()
    logged = [row for row in history if any(name.endswith("/mean_error") for name in row)]
    return Result(converted, before, after, logged)


def main(epochs: int = 3, seeds: int = 4) -> list[Result]:
    """Train for each seed, and print what the monitor saw, and what came out."""
    results = [train(seed, epochs) for seed in range(seeds)]
    print(f"{results[0].converted} layers converted\n")
    at_steps = list(zip(*(result.logged for result in results), strict=True))[::3]
    rows = [[str(at_step[0]["step"]), f"{max(map(worst, at_step)):.2f}"] for at_step in at_steps]
    show(["step", "mean_error"], rows)
    print()
    rows = []
    for name, value in (("as training left it", "before"), ("measured anew", "after")):
        found = [getattr(result, value) for result in results]
        mean, half = interval([row["eval_loss"] for row in found])
        rows.append(
            [name, percent([row["eval_accuracy"] for row in found]), f"{mean:.3f} ± {half:.3f}"]
        )
    show(["", "accuracy, %", "loss"], rows)
    return results


def worst(row: dict[str, float]) -> float:
    """Take the largest error of a running mean."""
    return max(value for name, value in row.items() if name.endswith("/mean_error"))


def picture(results: list[Result]) -> alt.LayerChart:
    """Errors of the running statistics while training went on, in all layers."""
    kinds = {"mean_error": BLUE, "log_std_error": ORANGE}
    rows = [
        {"step": row["step"], "kind": name.split("/")[-1], "seed": f"{k} {name}", "error": value}
        for k, result in enumerate(results)
        for row in result.logged
        for name, value in row.items()
        if name.split("/")[-1] in kinds
    ]
    y = alt.Y("error:Q", title="error of the running statistics")
    return curves(rows, alt.X("step:Q"), y, kinds)


if __name__ == "__main__":
    run(main, picture)
