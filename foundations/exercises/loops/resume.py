"""Exercise resume: killed at each step, in a validation, and while a checkpoint is written; then compared bit for bit."""

import copy
import math
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from foundations.comparing import Failure, check_that, difference
from foundations.exercise import Exercise
from foundations.exercises.loops.killed_runs import Objects, Task, make
from foundations.killing import Kill, Killed, deadly_writes, in_words, watched

exercise = Exercise(
    title="Resume: a training that can be killed at any moment",
    level="challenge",
    minutes=40,
    link="common.callbacks.resume:ResumeCheckpoints",
    why="`--resume` ends with the weights of an uninterrupted run, bit for bit, wherever that was killed",
    hints=(
        "List what the next step depends on: weights, moments, learning rate, random numbers, and which batch comes next.",
        "Position = (step, order of this epoch). Best = (loss, copy of the weights). Write a new file, then rename it.",
        'progress = {"step": …, "order": …, "best_loss": …, "best_weights": …}; torch.save(state, new); new.replace(path)',
    ),
    source="torch.optim:Optimizer.load_state_dict",
    look_at="Moments are found by a parameter's number in its group. What if the parameters come in another order?",
)


@dataclass
class Run:
    """What a run, of one or more processes, gave."""

    seen: list[list[int]]
    best: Any
    objects: Objects


def run(answer: ModuleType, task: Task, *kills: tuple[str, int]) -> Run:
    """Trains, in a new process after each kill, until the end. Raises Failure if it raises."""
    seen: list[list[int]] = []
    with tempfile.TemporaryDirectory() as name:
        for process, (what, number) in enumerate([*kills, ("", 0)]):
            kill = Kill(what, number, Path(name))
            objects = make(task, process, kill)
            try:
                with deadly_writes(kill):
                    best = answer.train(
                        *objects, task.data, task.validate, len(task.losses), task.batch_size, Path(name) / "run.pt"
                    )
                seen += objects[0].seen
                return Run(seen, best, objects)
            except Killed:
                kill.bury()
                seen += objects[0].seen
            except NotImplementedError:
                raise
            except Exception as error:
                raise Failure(f"raises {type(error).__name__}", {"killed": in_words(kills[:process])}, got=error) from error
    raise AssertionError("the last process is not killed")


def check_same(answer: ModuleType, task: Task, *cases: tuple[tuple[str, int], ...]) -> None:
    """Compares killed runs with an uninterrupted one, bit for bit; samples only where all kills are at steps."""
    expected = run(answer, task)
    for kills in cases:
        got = run(answer, task, *kills)
        shown = {"task": task, "killed": in_words(kills)}
        if all(what == "step" for what, _ in kills):
            check_that(got.seen == expected.seen, "samples of each step", expected.seen, got.seen, **shown)
        check_that(got.best == expected.best, "the lowest validation loss", expected.best, got.best, **shown)
        for i, part in enumerate(("the weights", "the optimizer's state", "the schedule")):
            ours, theirs = got.objects[i].state_dict(), expected.objects[i].state_dict()
            reason = difference(ours, theirs, 0.0, 0.0)
            check_that(not reason, f"{part} at the end: {reason}", "those of an uninterrupted run", "others", **shown)


def trained(task: Task, steps: int) -> Objects:
    """Objects after some steps."""
    model, optimizer, scheduler = make(task, 0, Kill())
    inputs, labels = task.data
    for _ in range(steps):
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer, scheduler


@exercise.property("what is saved comes back")
def round_trip(answer: ModuleType, rng: random.Random) -> None:
    task = Task(4, 2, (1.0,))
    progress = {"step": 3, "order": torch.tensor([2, 0, 1]), "history": [0.5, 0.25], "name": "a"}
    with tempfile.TemporaryDirectory() as name:
        path, old = Path(name) / "run.pt", trained(task, 2)
        answer.save_training(path, *old, progress)
        check_that(path.is_file(), "there is no file at path")
        draws = torch.rand(4)
        new = make(task, 1, Kill())
        parameters = list(new[0].parameters())
        got = answer.load_training(path, *new)
        drawn = torch.rand(4)
    reason = difference(got, progress, 0.0, 0.0)
    check_that(not reason, f"progress: {reason}", progress, got)
    for part, a, b in zip(("model", "optimizer", "schedule"), new, old, strict=True):
        reason = difference(a.state_dict(), b.state_dict(), 0.0, 0.0)
        check_that(not reason, f"state of the {part} after loading: {reason}", "that which was saved", "another")
    same = all(a is b for a, b in zip(parameters, new[0].parameters(), strict=True))
    check_that(same, "the model has new parameters, of which the optimizer does not know")
    check_that(torch.equal(drawn, draws), "random numbers after loading", "those that came after saving", "others")


@exercise.property("a checkpoint in place of another")
def replaced(answer: ModuleType, rng: random.Random) -> None:
    task = Task(4, 2, (1.0,))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run.pt"
        answer.save_training(path, *trained(task, 1), {"step": 1})
        with watched(path) as replacement:
            answer.save_training(path, *trained(task, 2), {"step": 2})
        check_that(not replacement.in_place, "the second checkpoint is written into the file of the first")
        check_that(not replacement.gone, "between two checkpoints there is a moment without a file at path")
        got = answer.load_training(path, *make(task, 1, Kill()))["step"]
    check_that(got == 2, "step of the checkpoint", 2, got)


@exercise.property("killed while a checkpoint is written over another")
def half_a_file(answer: ModuleType, rng: random.Random) -> None:
    task = Task(4, 2, (1.0,))
    with tempfile.TemporaryDirectory() as name:
        path, kill, expected = Path(name) / "run.pt", Kill("write", 1, Path(name)), 1
        answer.save_training(path, *trained(task, 1), {"step": 1})
        try:
            with deadly_writes(kill):
                answer.save_training(path, *trained(task, 2), {"step": 2})
            expected = 2  # it writes in another way than by torch.save
        except Killed:
            kill.bury()
        try:
            got = answer.load_training(path, *make(task, 1, Kill()))["step"]
        except Exception as error:
            raise Failure("the checkpoint cannot be read", got=type(error).__name__) from error
    check_that(got == expected, "step of the checkpoint", expected, got)


@exercise.property("an uninterrupted run")
def uninterrupted(answer: ModuleType, rng: random.Random) -> None:
    for task in (Task(6, 6, (1.0,), 0.0), Task(7, 4, (3.0, 1.0, 2.0), 0.0), Task(6, 3, (1.0, 1.0), 0.0)):
        got = run(answer, task)
        shown = {"task": task}
        sizes = [len(part) for part in torch.arange(task.count).split(task.batch_size)] * len(task.losses)
        check_that(
            [len(ids) for ids in got.seen] == sizes, "sizes of the batches", sizes, [len(i) for i in got.seen], **shown
        )
        n = task.steps_per_epoch
        orders = [[i for ids in got.seen[first : first + n] for i in ids] for first in range(0, len(sizes), n)]
        check_that(all(sorted(order) == list(range(task.count)) for order in orders), "not each sample once", **shown)
        check_that(
            list(range(task.count)) not in orders, "the samples are not shuffled", "an order drawn anew", orders, **shown
        )
        check_that(len({*map(tuple, orders)}) == len(orders), "each epoch has the same order", None, orders, **shown)
        check_that(got.best == min(task.losses), "the lowest validation loss", min(task.losses), got.best, **shown)
        done = got.objects[2].last_epoch
        check_that(done == len(sizes), "steps of the schedule", len(sizes), done, **shown)
        check_replay(task, got, shown)


def check_replay(task: Task, got: Run, shown: dict[str, Any]) -> None:
    """Compares the final weights with those after the best epoch, of the same batches."""
    model, optimizer, scheduler = make(task, 0, Kill())
    inputs, labels = task.data
    for ids in got.seen[: task.steps_per_epoch * (1 + task.losses.index(min(task.losses)))]:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[ids]), labels[ids]).backward()
        optimizer.step()
        scheduler.step()
    steps, expected = int(got.objects[0].steps), int(model.steps)
    check_that(steps == expected, "the step from which the final weights are", expected, steps, **shown)
    for (name, a), b in zip(got.objects[0].named_parameters(), model.parameters(), strict=True):
        reason = difference(a, b, 1e-4, 1e-5)
        check_that(not reason, f"{name}: {reason}", b, a, **shown)


@exercise.property("killed at any step")
def any_step(answer: ModuleType, rng: random.Random) -> None:
    check_same(answer, Task(5, 2, (1.0, 2.0)), *((("step", number),) for number in (2, 4, 5)))


@exercise.property("killed in a validation, and while a checkpoint is written")
def elsewhere(answer: ModuleType, rng: random.Random) -> None:
    check_same(answer, Task(5, 3, (1.0, 2.0)), (("validation", 1),), (("write", 2),), (("write", 3),))


@exercise.property("killed at random, again and again")
def again(answer: ModuleType, rng: random.Random) -> None:
    kills = ("step", rng.randint(2, 4)), ("step", rng.randint(1, 3)), ("step", rng.randint(1, 2))
    check_same(answer, Task(7, 3, (3.0, 1.0, 2.0)), kills)


@exercise.property("called again when it is finished")
def finished(answer: ModuleType, rng: random.Random) -> None:
    task = Task(4, 2, (1.0, 2.0))
    with tempfile.TemporaryDirectory() as name:
        runs = []
        for process in range(2):
            objects = make(task, process, Kill())
            best = answer.train(*objects, task.data, task.validate, 2, 2, Path(name) / "run.pt")
            runs.append((best, len(objects[0].seen), objects[0].state_dict()))
    check_that(runs[1][:2] == (1.0, 0), "(lowest loss, steps) of the second call", (1.0, 0), runs[1][:2])
    check_that(not difference(runs[1][2], runs[0][2], 0.0, 0.0), "the second call ends with other weights")


def save(path: Path, model: Any, optimizer: Any, scheduler: Any, progress: Any, file: Path | None = None) -> None:
    """Saves all to another file, by default, and renames it."""
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    state = {name: value.state_dict() for name, value in state.items()}
    file = file or path.with_suffix(".new")
    torch.save(state | {"random": torch.get_rng_state(), "progress": progress}, file)
    file.replace(path)


def load_with(forgotten: int | None) -> Callable[..., Any]:
    """Loading that forgets a part."""

    def load_training(path: Path, *objects: Any) -> Any:
        state = torch.load(path)
        for i, (value, name) in enumerate(zip(objects, ("model", "optimizer", "scheduler"), strict=True)):
            if i != forgotten:
                value.load_state_dict(state[name])
        if forgotten != len(objects):
            torch.set_rng_state(state["random"])
        return state["progress"]

    return load_training


load = load_with(None)


def train_with(fault: str) -> Callable[..., float]:
    """Training with one of the known faults."""

    def train(model, optimizer, scheduler, data, validate, epochs, size, path):
        x, y = data
        at = {"epoch": 0, "batch": 0, "order": None, "best": math.inf, "kept": None}
        if path.exists():
            at |= load(path, model, optimizer, scheduler)
            at |= {"epoch_again": {"batch": 0, "order": None}, "new_order": {"order": None}}.get(fault, {})
            at |= {"best": math.inf} if fault == "best_forgotten" else {}
        for epoch in range(at["epoch"], epochs):
            fixed = torch.arange(len(x)) if fault == "unshuffled" else None
            at["order"] = torch.randperm(len(x)) if at["order"] is None else at["order"]
            batches = (at["order"] if fixed is None else fixed).split(size)
            for number in range(at["batch"], len(batches)):
                loss = F.cross_entropy(model(x[batches[number]]), y[batches[number]])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                last = number + 1 == len(batches)
                if fault != "schedule_by_epoch" or last:
                    scheduler.step()
                at |= {"epoch": epoch + 1, "batch": 0, "order": None} if last else {"batch": number + 1}
                if last and fault == "saved_too_early":
                    save(path, model, optimizer, scheduler, at)
                if last and (value := validate(model)) < at["best"]:
                    weights = model.state_dict()
                    at |= {"best": value, "kept": weights if fault == "reference" else copy.deepcopy(weights)}
                save(path, model, optimizer, scheduler, at)
        model.load_state_dict(at["kept"])
        return at["best"]

    return train


exercise.wrong("load_training", "The optimizer is not saved, or not loaded: Adam's moments begin at zero again.")(
    load_with(1)
)
exercise.wrong("load_training", "The schedule is not saved, or not loaded: it begins anew.")(load_with(2))
exercise.wrong(
    "load_training",
    "The state of the random generator does not come back: dropout and the next order differ from the uninterrupted run's.",
)(load_with(3))
exercise.also_right("load_training")(load)


@exercise.also_right("save_training")
def from_memory(path: Path, model: Any, optimizer: Any, scheduler: Any, progress: Any) -> None:
    """Bytes in memory, a file of any name, and a copy of the old checkpoint."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "random": torch.get_rng_state(),
                "progress": progress,
            },
            file,
        )
    if path.exists():
        shutil.copy(path, path.with_suffix(".before"))
    shutil.move(file.name, path)


@exercise.wrong(
    "save_training",
    "The file is written over the old one: a kill meanwhile leaves half of it and nothing else. Write another, then rename.",
)
def in_place(path: Path, model: Any, optimizer: Any, scheduler: Any, progress: Any) -> None:
    save(path, model, optimizer, scheduler, progress, path)


@exercise.wrong(
    "save_training",
    "The old file is taken away before the new one is in place: a kill in between leaves none. replace() does both at once.",
)
def removed_first(path: Path, model: Any, optimizer: Any, scheduler: Any, progress: Any) -> None:
    new = path.with_suffix(".new")
    save(new, model, optimizer, scheduler, progress)
    path.unlink(missing_ok=True)
    new.rename(path)


exercise.wrong("train", "The best weights are the state dict itself, which goes on moving with the model: copy it.")(
    train_with("reference")
)
exercise.wrong("train", "The schedule takes a step for each epoch; here it is one of steps.")(
    train_with("schedule_by_epoch")
)
exercise.wrong("train", "The samples are not shuffled.")(train_with("unshuffled"))
exercise.wrong(
    "train",
    "The epoch begins again after a kill: samples that it has seen already are seen twice. Save the position in it.",
    seen="https://github.com/borisdayma/dalle-mini/issues/105",
)(train_with("epoch_again"))
exercise.wrong(
    "train",
    "The position in the epoch is kept, its order is drawn anew: some samples come twice in it, others never. Save both.",
    seen="https://github.com/huggingface/accelerate/pull/4233",
)(train_with("new_order"))
exercise.wrong("train", "The best loss so far is forgotten: after a kill anything counts as the best.")(
    train_with("best_forgotten")
)
exercise.wrong(
    "train", "The end of an epoch is saved before its validation: killed in between, the run never validates that epoch."
)(train_with("saved_too_early"))
exercise.also_right("train")(train_with(""))


@exercise.also_right("train")
def order_by_seed(model, optimizer, scheduler, data, validate, epochs, batch_size, path):
    seeds, done, best = torch.randint(10**6, (epochs,)).tolist(), 0, (math.inf, None)
    if path.exists():
        seeds, done, *best = load(path, model, optimizer, scheduler)["all"]
    n = len(data[1])
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    plan = [part for rng in rngs for part in torch.randperm(n, generator=rng).split(batch_size)]
    for step, rows in enumerate(plan[done:], done + 1):
        optimizer.zero_grad()
        scores = model(data[0][rows]).log_softmax(1)
        torch.einsum("nn->", -scores[:, data[1][rows]] / len(rows)).backward()
        optimizer.step()
        scheduler.step()
        if step * epochs % len(plan) == 0:
            loss = validate(model)
            if loss < best[0]:
                best = loss, {name: value.clone() for name, value in model.state_dict().items()}
        save(path, model, optimizer, scheduler, {"all": [seeds, step, *best]})
    model.load_state_dict(best[1])
    return best[0]
