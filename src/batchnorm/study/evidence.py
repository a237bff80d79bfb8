"""All outcomes of a study, looked up by what was run, and the learning rates they choose.

A seed's learning rate is chosen by the validation accuracy of the *other* seeds at the end of
training (its own when there is no other), so that no seed is judged at a rate that its own luck
picked. Every arm has the same grid and budget. A run that diverged or learned nothing counts as
accuracy 0, so that chance does not choose among rates of which none works; the smallest is taken.
"""

from collections.abc import Iterable

from .design import BATCH_NORM, GHOST, GRID, NONE, PROBE, STABILITY, Design, TrialConfig
from .outcome import Outcome
from .training import FAILED, OK, has_learned

BEST, MATCHED = "best", "matched"


class Evidence:
    """Outcomes of a study.

    Args:
        design: What was to be run.
        outcomes: What has been run.
        classes: Number of classes of the data; chance accuracy is 1 / classes.
    """

    def __init__(self, design: Design, outcomes: Iterable[Outcome], classes: int) -> None:
        self.design = design
        self.classes = classes
        self.by_config = {outcome.config: outcome for outcome in outcomes}

    def find(
        self,
        stage: str,
        activation: str,
        arm: str,
        seed: int,
        lr: float | None,
        virtual_batch_size: int | None = None,
    ) -> Outcome | None:
        """The outcome of one trial; None where it has not finished, or the rate is not known."""
        if lr is None:
            return None
        problem = self.design.problem
        config = TrialConfig(problem, stage, activation, arm, seed, lr, virtual_batch_size)
        return self.by_config.get(config)

    def learned(self, outcome: Outcome) -> bool:
        """Whether a run ended well and better than chance."""
        accuracy = outcome.final.train_accuracy if outcome.final else None
        return outcome.status == OK and has_learned(accuracy, self.classes)

    def tuned_lr(self, activation: str, arm: str, seed: int) -> float | None:
        """The arm's own best rate for this seed; None before any grid run has finished."""
        scores = {lr: self._score(activation, arm, lr, seed) for lr in self.design.lrs}
        return _best(scores)

    def matched_lr(self, activation: str, seed: int) -> float | None:
        """The one rate at which the worse of the two arms does best."""
        scores: dict[float, float | None] = {}
        for lr in self.design.lrs:
            pair = [self._score(activation, arm, lr, seed) for arm in (NONE, BATCH_NORM)]
            known = [score for score in pair if score is not None]
            scores[lr] = min(known) if len(known) == len(pair) else None
        return _best(scores)

    def condition_lr(self, activation: str, arm: str, condition: str, seed: int) -> float | None:
        """The rate of an arm under a condition: "best" or "matched"."""
        if condition == BEST:
            return self.tuned_lr(activation, arm, seed)
        return self.matched_lr(activation, seed)

    def tuned_run(self, activation: str, arm: str, seed: int) -> Outcome | None:
        """The grid run at the arm's own best rate."""
        lr = self.tuned_lr(activation, arm, seed)
        return self.find(GRID, activation, arm, seed, lr)

    def probe(self, activation: str, arm: str, condition: str, seed: int) -> Outcome | None:
        """The run with measurements under a condition."""
        lr = self.condition_lr(activation, arm, condition, seed)
        return self.find(PROBE, activation, arm, seed, lr)

    def ghost(self, activation: str, size: int, seed: int) -> Outcome | None:
        """The run of the BN arm at its own rate with so many samples per statistic."""
        lr = self.tuned_lr(activation, BATCH_NORM, seed)
        if size == self.design.problem.batch_size:
            return self.find(PROBE, activation, BATCH_NORM, seed, lr)
        return self.find(GHOST, activation, BATCH_NORM, seed, lr, size)

    def stability(self, activation: str, arm: str, seed: int) -> Outcome | None:
        """The bisection of an arm."""
        lr = self.tuned_lr(activation, arm, seed)
        return self.find(STABILITY, activation, arm, seed, lr)

    def second_stage(self) -> list[TrialConfig]:
        """What to run once the grid has chosen the rates; seeds outermost, arms adjacent.

        The comparison at the same rate and the virtual batches concern the two arms that the
        claims compare; PyTorch's default initialization is followed at its own rate only.
        """
        design, planned = self.design, dict[TrialConfig, None]()
        for seed in range(design.seeds):
            for activation in design.activations:
                for arm in design.arms:
                    best = self.tuned_lr(activation, arm, seed)
                    self._plan(planned, PROBE, activation, arm, seed, best)
                    self._plan(planned, STABILITY, activation, arm, seed, best)
                matched = self.matched_lr(activation, seed)
                for arm in (NONE, BATCH_NORM):
                    self._plan(planned, PROBE, activation, arm, seed, matched)
                best = self.tuned_lr(activation, BATCH_NORM, seed)
                for size in design.virtual_batch_sizes:
                    self._plan(planned, GHOST, activation, BATCH_NORM, seed, best, size)
        return list(planned)

    def _plan(
        self,
        planned: dict[TrialConfig, None],
        stage: str,
        activation: str,
        arm: str,
        seed: int,
        lr: float | None,
        size: int | None = None,
    ) -> None:
        if lr is not None:
            planned[TrialConfig(self.design.problem, stage, activation, arm, seed, lr, size)] = None

    def _score(self, activation: str, arm: str, lr: float, seed: int) -> float | None:
        """Mean validation accuracy of the other seeds; a run that did not learn has 0."""
        others = [s for s in range(self.design.seeds) if s != seed] or [seed]
        runs = [self.find(GRID, activation, arm, s, lr) for s in others]
        done = [run for run in runs if run is not None]
        scores = [
            (run.final.val_accuracy or 0.0) if run.final and self.learned(run) else 0.0
            for run in done
        ]
        # Rounded, so that a tie stays one whatever the order of the seeds it is summed in.
        return round(sum(scores) / len(scores), 6) if scores else None


def upper_bound(design: Design) -> int:
    """How many trials a study has at most: the second stage depends on what the first finds."""
    per_cell = 2 * len(design.arms) + 2 + len(design.virtual_batch_sizes)
    return len(design.grid()) + design.seeds * len(design.activations) * per_cell


def failed(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The trials that raised."""
    return [outcome for outcome in outcomes if outcome.status == FAILED]


def _best(scores: dict[float, float | None]) -> float | None:
    """The rate with the highest score; of equal ones the smallest."""
    known = {lr: score for lr, score in scores.items() if score is not None}
    return max(known, key=lambda lr: (known[lr], -lr)) if known else None
