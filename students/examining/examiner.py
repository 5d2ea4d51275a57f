"""Evaluations of a run: during training, at the end, of the teacher; and preview pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd import distributed
from kd.config import ConfigError
from kd.data.build import open_split
from kd.data.dataset import Dataset
from kd.data.loader import Whole, collate, whole_batches
from kd.evaluate.evaluator import Evaluation, evaluate
from kd.files import write_whole
from kd.lookup import lookup
from kd.networks.folding import resting
from kd.recipe.schema import Recipe
from kd.sealed import read_sealed, write_sealed
from kd.types import IGNORE, UNLABELLED, Outputs
from students.examining.previews import Colour, Panel, Sample, sheet
from students.precision import precision
from students.progress import bar, say
from teachers import Teacher

Looker = Callable[[Tensor], Outputs]


class Examiner:
    """Knows the recipe's evaluation protocol and its splits; ``training`` is what is shown where nothing is measured."""

    def __init__(self, recipe: Recipe, classes: tuple[str, ...], device: torch.device, training: Dataset | None = None) -> None:
        self.config, self.classes, self.device, self.machine = recipe.evaluation, classes, device, recipe.run
        splits = {self.config.select, self.config.report} if self.config.measures else set()
        self.data: dict[str, Dataset] = {split: open_split(recipe.data, split) for split in sorted(splits)}
        for split, data in self.data.items():
            if tuple(data.classes) != tuple(classes):
                raise ConfigError(
                    f"data: split '{split}' has the classes {', '.join(data.classes)}; the network knows {', '.join(classes)}"
                )
        self.shown = self.data[self.config.select] if self.config.measures else training
        self.predict = lookup("kd.evaluate", self.config.predictor.name, "Predictor")(self.config.predictor)
        self.training_precision = precision(recipe.schedule.precision, device)

    @property
    def card(self) -> dict[str, Any]:
        """What the network's classes are and how to paint them; how its images were read, where they were not RGB of 8 bits."""
        facts = self.shown.bands.facts if self.shown is not None else {}
        return {"classes": list(self.classes), "colours": [list(colour) for colour in self.colours], **facts}

    @property
    def colours(self) -> Sequence[Colour]:
        """Of the classes, RGB."""
        return self.shown.colours if self.shown is not None else ()

    def examine(
        self,
        look: Looker,
        split: str,
        limit: int = 0,
        calibration: bool = False,
        teacher: Looker | None = None,
        thresholds: bool = False,
    ) -> Evaluation:
        """What there is to know about a network in eval mode on a split, computed in float32."""
        rank, world = distributed.rank(), distributed.world_size()
        workers, pin = self.machine.workers, self.device.type == "cuda"
        loader = whole_batches(
            self.data[split], batch=self.config.batch, limit=limit, rank=rank, world=world, workers=workers, pin=pin
        )
        shown = bar(loader, f"evaluating {split}")
        batches = (batch.to(self.device) for batch in shown)
        knows = len(self.classes)
        return evaluate(look, batches, knows, self.predict, calibration=calibration, teacher=teacher, thresholds=thresholds)

    def during(self, network: torch.nn.Module) -> dict[str, Any]:
        """Scores on the selecting split while training goes on; in training's precision, if the recipe is in a hurry."""
        half = self.config.quick and self.training_precision != torch.float32
        with torch.autocast(self.device.type, self.training_precision, enabled=half):
            return self.examine(network.eval(), self.config.select, self.config.limit).scores(self.classes)

    def final(self, network: torch.nn.Module, teacher: Teacher | None = None) -> dict[str, Evaluation]:
        """Both splits, whole; on the reported one beside the teacher."""
        network = resting(network)
        beside = {self.config.report: resting(teacher).look} if teacher is not None and teacher.knows_classes else {}
        calibration = self.config.calibration
        return {split: self.examine(network, split, calibration=calibration, teacher=beside.get(split)) for split in self.data}

    def examine_teacher(self, teacher: Teacher, folder: Path) -> dict[str, Any]:
        """The teacher's scores on the selecting split, measured once a run and kept in ``teacher.json``; none where there is no
        such split, or the teacher knows no classes.

        Raises:
            ConfigError: the teacher is below its floor.
        """
        path = folder / "teacher.json"
        if not path.exists():
            scores: dict[str, Any] = {}
            if self.config.measures and teacher.knows_classes:
                scores = self.examine(resting(teacher).look, self.config.select).scores(self.classes)
            if distributed.is_main():
                facts = {"source": teacher.source, "mark": teacher.mark, "cached": teacher.cached, "split": self.config.select}
                write_sealed(path, {**facts, **scores})
            distributed.barrier()
        scores = read_sealed(path)
        if scores.get("mark") != teacher.mark:
            raise ConfigError(
                f"teacher: {teacher.source} holds other weights than when this run began (see {path}); put the old ones "
                "back, or start a new run with another --output"
            )
        if not teacher.knows_classes:
            say(f"teacher {teacher.source}: gives features; knows no classes, so it is not scored")
            return scores
        if not self.config.measures:
            say(f"teacher {teacher.source}: not measured, there is no split to measure on")
            return scores
        miou = scores["mIoU"]
        say(f"teacher {teacher.source}: {'no' if miou is None else f'{miou:.2f}'} mIoU on {self.config.select}")
        teacher.check_floor(miou)
        return scores

    def previews(self, network: torch.nn.Module, teacher: Teacher | None, path: Path) -> list[Panel]:
        """Draw a few fixed samples: image, target, teacher, student. Returns panels for the tracker."""
        data = self.shown
        number = min(self.machine.previews, len(data)) if data is not None else 0
        if data is None or number == 0:
            return []
        rows: list[Sample] = []
        panels: list[Panel] = []
        for index in [position * len(data) // number for position in range(number)]:
            batch = collate([Whole(data)[index]]).to(self.device)
            maps = {"target": batch.target[0].masked_fill(batch.target[0] == UNLABELLED, IGNORE).to(torch.uint8)}
            if teacher is not None and teacher.knows_classes:
                maps["teacher"] = self._map(teacher.look, batch.image)
            maps["student"] = self._map(network.eval(), batch.image)
            maps = {name: values.cpu() for name, values in maps.items()}
            seen = data.bands.visible(batch.image[0]).cpu()
            rows.append((seen, maps))
            panels.append(
                (batch.ids[0], seen.permute(1, 2, 0).numpy(), {name: values.numpy() for name, values in maps.items()})
            )
        write_whole(path, partial(sheet(rows, self.classes, self.colours).save, format="PNG"))
        return panels

    @torch.no_grad()
    def _map(self, look: Looker, image: Tensor) -> Tensor:
        return self.predict.read(look, image)[0].labels()
