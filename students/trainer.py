"""The one loop. It knows stages, optimizers and files, and no method by name."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kd import distributed
from kd.config import ConfigError
from kd.losses.mixture import weighted_sum
from kd.networks.network import Network
from kd.recipe.schema import Recipe
from kd.seeds import seed_processes
from kd.types import IGNORE, Batch, Outputs, Stage
from students import checkpoint
from students.feeding import fed
from students.nonfinite import diagnose
from students.objective import Objective
from students.optimizers import Schedule, build_optimizers
from students.precision import precision
from students.progress import say
from students.signals import REQUEUE, Interrupted, StopSignals
from students.stages import span_at, spans

Teacher = Callable[[Batch], Outputs]
KNOBS = inspect.signature(DistributedDataParallel).parameters
OWN_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in KNOBS else "broadcast_buffers": False}
"""What keeps each process's statistics its own: torch has renamed it."""


class Part(NamedTuple):
    """What is known of an accumulated part of a step: its terms, their weighted sum, and of what."""

    terms: dict[str, Tensor]
    total: Tensor
    batch: Batch


class Trainer:
    """Owns the state of a run: objective, optimizers, scaler, averaged weights, step, best so far, seconds spent.

    ``waited`` are those of them in which this process waited for data; ``run`` is the id of the run, which checkpoints carry.
    Training a teacher is the same, without method.
    """

    def __init__(
        self, recipe: Recipe, objective: Objective, teacher: Teacher | None, folder: Path, device: torch.device
    ) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        self.objective, self.teacher = objective.to(device), teacher
        self.optimizers = build_optimizers(objective, recipe.schedule.optimizer)
        self.precision = precision(recipe.schedule.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        ema = recipe.schedule.ema
        self.average = (
            AveragedModel(objective.student, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True) if ema else None
        )
        self.spans = spans(objective.method.stages if objective.method else (Stage("train"),), recipe.schedule.steps)
        self.total = self.spans[-1].end
        self.step, self.seconds, self.waited = 0, 0.0, 0.0
        self.gradient_norm = torch.zeros(())
        self.best: dict[str, Any] = {}
        self.run = ""
        self.stage: Stage | None = None
        self.wrapped: nn.Module = self.objective
        self.warned = self.entered = False

    @property
    def network(self) -> Network:
        """The student that is evaluated and saved: the averaged one, if averaging is on."""
        return cast(Network, self.average.module) if self.average is not None else self.objective.student

    def fit(self, batches: Iterator[Batch], listener: Any) -> None:
        """Train to the last step. ``listener.after(trainer, terms)`` is called after each step.

        Raises:
            Interrupted: a signal came; the checkpoint is written.
            NonFiniteLossError: a loss is NaN or infinite; evidence is written, no step is taken.
        """
        batches = fed(batches, self.device)
        with StopSignals() as signals:
            while self.step < self.total:
                started = time.perf_counter()
                terms = self.one_step(batches)
                self.seconds += time.perf_counter() - started
                listener.after(self, terms)
                stopping = distributed.any_rank(signals.asked, self.device)
                last = self.step == self.total
                if stopping or last or self.step % self.recipe.run.checkpoint_every == 0:
                    self.save()
                if stopping and not last:
                    say(f"stopped at step {self.step} as asked; the same command resumes the run")
                    raise Interrupted(REQUEUE)

    def one_step(self, batches: Iterator[Batch]) -> dict[str, float]:
        """One optimizer step; returns the un-weighted terms, averaged over the accumulated parts."""
        recipe, parts = self.recipe, self.recipe.schedule.accumulate
        seed_processes(recipe.seed, "step", self.step)
        span = span_at(self.spans, self.step)
        self._enter(span.stage)
        self.objective.train()
        for schedule in self.optimizers:
            schedule.optimizer.zero_grad(set_to_none=True)
        self.rates = {s.name: s.set_rate(self.step - span.first, span.end - span.first) for s in self.optimizers}
        done = [self._backward(self._next(batches), part == parts - 1) for part in range(parts)]
        active = self._gradients()
        terms = self._looked_at(done)
        self._update(active)
        self.step += 1
        return terms

    def _next(self, batches: Iterator[Batch]) -> Batch:
        asked = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - asked
        return batch.to(self.device)

    def _backward(self, batch: Batch, last: bool) -> Part:
        with self._sync(last):
            with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
                outputs = self.teacher(batch) if self.teacher is not None else None
                terms = self.wrapped(batch, outputs)
                total = weighted_sum(terms, {name: self.recipe.weights[name] for name in terms})
            self.scaler.scale(total / self.recipe.schedule.accumulate).backward()
        return Part({name: term.detach() for name, term in terms.items()}, total.detach(), batch)

    def _gradients(self) -> list[Schedule]:
        """The optimizers that have something to do; gradients in their own scale, and their norm."""
        active = [s for s in self.optimizers if any(p.grad is not None for p in s.parameters())]
        for schedule in active:
            self.scaler.unscale_(schedule.optimizer)
        grads = [p.grad for schedule in active for p in schedule.parameters() if p.grad is not None]
        self.gradient_norm = torch.nn.utils.get_total_norm(grads).to(self.device)
        return active

    def _looked_at(self, parts: list[Part]) -> dict[str, float]:
        """The terms' means, once it is clear that all is finite: a step's one wait for the device, before any weight moves."""
        means = {name: torch.stack([part.terms[name].float() for part in parts]).mean() for name in parts[0].terms}
        flags = [flag for part in parts for flag in (part.total.isfinite(), (part.batch.target != IGNORE).any())]
        norm = self.gradient_norm.isfinite() | self.scaler.is_enabled()
        found = torch.stack([*means.values(), *(flag.float() for flag in (*flags, norm))]).tolist()
        values, (*flags, norm) = found[: len(means)], found[len(means) :]
        for part, labelled in zip(parts, flags[1::2], strict=True):
            if not labelled:
                self._warn_unlabelled(part.batch)
        if distributed.any_rank(not (norm and all(flags[::2])), self.device):
            self._refuse(next((part for part, finite in zip(parts, flags[::2], strict=True) if not finite), parts[-1]))
        return dict(zip(means, values, strict=True))

    def _update(self, active: list[Schedule]) -> None:
        if self.entered:
            self._check_reached()
        self.entered = False
        parameters = [parameter for schedule in active for parameter in schedule.parameters()]
        if self.recipe.schedule.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.schedule.clip, self.gradient_norm)
        for schedule in active:
            self.scaler.step(schedule.optimizer)
        self.scaler.update()
        if self.average is not None and not self.objective.rests:
            self.average.update_parameters(self.objective.student)

    def _enter(self, stage: Stage) -> None:
        if stage is self.stage:
            return
        self.stage, self.entered = stage, True
        self.objective.student.requires_grad_(stage.trains_student)
        self.objective.rests = not stage.trains_student
        if self.objective.method is not None:
            self.objective.method.enter(stage)
        self.wrapped = self.objective
        if distributed.world_size() > 1:  # anew for each stage: it looks at requires_grad only once
            self.wrapped = DistributedDataParallel(self.objective, **OWN_BUFFERS)

    def _sync(self, last: bool) -> Any:
        waits = isinstance(self.wrapped, DistributedDataParallel) and not last
        return self.wrapped.no_sync() if waits else nullcontext()  # type: ignore[operator]

    def _check_reached(self) -> None:
        moved = {id(parameter) for schedule in self.optimizers for parameter in schedule.parameters()}
        if late := [name for name, p in self.objective.named_parameters() if id(p) not in moved]:
            raise ConfigError(
                f"{late[0]}: was made while the method was at work, so that no optimizer trains it; make layers in __init__"
            )
        named = self.objective.named_parameters()
        idle = [name for name, p in named if p.requires_grad and p.grad is None]
        if idle:
            raise ConfigError(
                f"{idle[0].rsplit('.', 1)[0]}: no term of loss or method reaches its parameters ({len(idle)} in all); they "
                "would never learn. Drop the part (e.g. student.aux=0) or add a term that uses it: a loss, or where there are "
                "no labels a method on logits, such as kd (kd+nfd)"
            )

    def _warn_unlabelled(self, batch: Batch) -> None:
        if not self.warned:
            self.warned = True
            names = ", ".join(batch.ids[:4])
            say(
                f"WARNING: step {self.step}: every pixel of the batch is ignored ({names} ...), so there is no hard label "
                "and those terms are 0. Once is harmless; often means wrong labels or crops too small (told once)"
            )

    def _refuse(self, part: Part) -> None:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            outputs = self.teacher(part.batch) if self.teacher is not None else None
            error = diagnose(self.folder, self.step, part.terms, part.batch, self.objective.student, outputs, self.rates)
        distributed.barrier()
        raise error

    def save(self) -> None:
        """Write the checkpoint (rank 0)."""
        if distributed.is_main():
            checkpoint.save(self.folder, self.state())
        distributed.barrier()

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on. Random states are not among it: each step seeds itself."""
        return {
            "run": self.run,
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "objective": self.objective.state_dict(),
            "optimizers": {schedule.name: schedule.optimizer.state_dict() for schedule in self.optimizers},
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.step, self.seconds, self.best = state["step"], state["seconds"], dict(state["best"])
        self.objective.load_state_dict(state["objective"])
        for schedule in self.optimizers:
            schedule.optimizer.load_state_dict(state["optimizers"][schedule.name])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
