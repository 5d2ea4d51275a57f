"""What happens around the steps: logging, evaluating, remembering the best student."""

from __future__ import annotations

from typing import Any

from kd import distributed
from kd.networks.build import save_network
from kd.recipe.schema import Recipe
from kd.surge import Surge
from kd.types import Stage
from students.environment import peak_memory_mb
from students.examining.examiner import Examiner
from students.patience import Patience
from students.progress import Progress, say, short
from students.tracking.tracker import Tracker
from students.trainer import Trainer
from teachers import Teacher


class Recorder:
    """Told of every step by the trainer."""

    def __init__(
        self, recipe: Recipe, tracker: Tracker, progress: Progress, examiner: Examiner, teacher: Teacher | None
    ) -> None:
        self.recipe, self.tracker, self.progress = recipe, tracker, progress
        self.examiner, self.teacher = examiner, teacher
        self.window: tuple[int, float, float] | None = None  # steps, seconds, and those waited for data, at the last record
        self.patience = Patience(recipe.run.workers, getattr(recipe.data, "store", "none") is None)
        self.stage: Stage | None = None
        self.surge, self.warned = Surge(), False

    def after(self, trainer: Trainer, terms: dict[str, float]) -> None:
        """Show the step, log it, evaluate when it is time (also after the last step, which may be the best)."""
        self.window = self.window or (trainer.step, trainer.seconds, trainer.waited)
        self.patience.look(trainer.seconds, trainer.waited)
        self._name_stage(trainer)
        every, last = self.recipe.evaluation.every, trainer.step == trainer.total
        logs = trainer.step % self.recipe.run.log_every == 0 or last
        weights = self.recipe.weights
        values = {"loss": sum(weights[name] * value for name, value in terms.items()), **terms}
        self.progress.update(values, images=self.recipe.schedule.batch, lr=trainer.rates["student"])
        if logs:
            record = self._record(trainer, values)
            self.tracker.log(record, trainer.step)
            self._warn_of_surge(trainer.step, values["loss"], record["weighted"])
        if every and (trainer.step % every == 0 or last):
            with self.progress.paused():
                self._evaluate(trainer)

    def _name_stage(self, trainer: Trainer) -> None:
        """Of a method that has several."""
        if trainer.stage is not None and trainer.stage is not self.stage and len(trainer.spans) > 1:
            self.stage = trainer.stage
            self.progress.stage(trainer.stage.name)

    def _speed(self, trainer: Trainer) -> dict[str, float]:
        """Images of all processes per second, and the share of the time that went into waiting for data, since the last record.

        The first step of a process is left out: it warms up.
        """
        assert self.window is not None
        step, seconds, waited = self.window
        self.window = (trainer.step, trainer.seconds, trainer.waited)
        if trainer.step == step:
            return {}
        spent = trainer.seconds - seconds
        images = self.recipe.schedule.batch * (trainer.step - step)
        return {"images_per_second": images / spent, "waiting_for_data": (trainer.waited - waited) / spent}

    def _record(self, trainer: Trainer, values: dict[str, float]) -> dict[str, Any]:
        terms = {name: value for name, value in values.items() if name != "loss"}
        weights = self.recipe.weights
        return {
            "train": {"loss": values["loss"], "gradient_norm": float(trainer.gradient_norm)},
            "terms": terms,
            "weighted": {name: weights[name] * value for name, value in terms.items()},
            "lr": trainer.rates,
            "perf": {
                "seconds_per_step": trainer.seconds / trainer.step,
                **self._speed(trainer),
                "memory_mb": peak_memory_mb(trainer.device),
            },
        }

    def _warn_of_surge(self, step: int, loss: float, weighted: dict[str, float]) -> None:
        times = self.surge.times(loss, weighted)
        if times is None or self.warned:
            return
        self.warned = True
        largest = max(weighted, key=lambda name: weighted[name])
        say(
            f"WARNING: step {step}: the loss of {short(loss)} is {times:.0f} times the first one logged, most of it {largest} "
            f"({short(weighted[largest])}): training diverges; lower schedule.optimizer.lr, or method_multiplier beside it for "
            "the layers that a method trains, or set schedule.clip (told once)"
        )

    def _evaluate(self, trainer: Trainer) -> None:
        scores = self.examiner.during(trainer.network)
        split, miou = self.recipe.evaluation.select, scores["mIoU"]
        self.tracker.log({split: scores}, trainer.step)
        self.progress.update(miou=miou, steps=0)
        if miou is not None and miou > trainer.best.get("mIoU", -1.0):
            trainer.best = {"step": trainer.step, "mIoU": miou}
            if distributed.is_main():
                facts = {**self.examiner.card, "step": trainer.step, "mIoU": miou}
                save_network(trainer.network, trainer.folder, "best", facts)
        if distributed.is_main():
            name = f"step_{trainer.step:07d}.png"
            panels = self.examiner.previews(trainer.network, self.teacher, trainer.folder / "previews" / name)
            self.tracker.images(trainer.step, panels, self.examiner.classes)
