"""Exercise tta_ensemble: the mean over views and models, and what it buys."""

import random
from types import ModuleType

import torch
from torch import Tensor, nn

from foundations.comparing import call, check_equal, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Test-time augmentation and ensembles: the mean of several opinions",
    level="warm-up",
    minutes=15,
    link="projects.cifar10.inference:ImageClassificationPipeline",
    why="several checkpoints and six views of each image",
    hints=(
        "Every model sees every image and its flip, in evaluation mode; average what each makes of it after softmax.",
        "p = mean over models m and views v of softmax(m(v)); a map of a flipped image is flipped once more.",
        "torch.stack([model(view).softmax(1) for model in models for view in (images, images.flip(-1))]).mean(0)",
    ),
    source="torch.func:stack_module_state",
    look_at="It stacks the parameters of several models, so that vmap runs them in one call. Which models does it refuse?",
)


def make_classifier(seed: int, size: int, classes: int, scale: float = 1.0) -> nn.Module:
    """Linear classifier of images (N, 1, size, size) with fixed weights, whose logits have a size of their own."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(size * size, classes))
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.randn(classes, size * size, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


def make_pixel_classifier(seed: int, classes: int) -> nn.Module:
    """A network that looks to the left: its map of a flipped image is no flip of its map."""
    model = nn.Conv2d(1, classes, 3, padding=1)
    with torch.no_grad():
        model.weight.copy_(2 * torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(seed)))
    return model.eval()


class Noisy(nn.Module):
    """Batch normalization and dropout around a classifier: both behave differently in evaluation."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner, self.drop = nn.BatchNorm2d(1), inner, nn.Dropout(0.5)
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.drop(self.inner(self.norm(x)))


@torch.no_grad()
def reference(models: list[nn.Module], images: Tensor, maps: bool = False) -> Tensor:
    """Sum by sum; the models are in evaluation mode."""
    total: Tensor | float = 0.0
    for model in models:
        total = total + model(images).softmax(1)
        mirrored = model(images.flip(3)).softmax(1)
        total = total + (mirrored.flip(3) if maps else mirrored)
    return total / (2 * len(models))


@exercise.property("an ensemble has models of its own")
def models(answer: ModuleType, rng: random.Random) -> None:
    before = torch.random.get_rng_state()
    got = call(answer.make_ensemble, lambda: nn.Linear(2, 1), [3, 5, 3])
    check_that(torch.equal(before, torch.random.get_rng_state()), "the global generator has moved")
    check_that(isinstance(got, list | tuple) and len(got) == 3, "the number of models", 3, got)
    check_that(len({id(model) for model in got}) == 3, "one model stands there several times", seeds=[3, 5, 3])
    for seed, model in zip([3, 5, 3], got, strict=True):
        torch.manual_seed(seed)
        expected = nn.Linear(2, 1).weight.detach()
        torch.random.set_rng_state(before)
        reason = difference(model.weight.detach(), expected, 1e-6, 1e-7)
        check_that(not reason, f"weights of the model of seed {seed}: {reason}", expected, model.weight, seeds=[3, 5, 3])


@exercise.property("class probabilities")
def classes(answer: ModuleType, rng: random.Random) -> None:
    for n, size, count, members in [(1, 2, 2, 1), (2, 2, 3, 2), (3, 3, 3, 3), (0, 2, 3, 2)]:
        models = [make_classifier(seed, size, count, 0.5 + 2 * seed) for seed in range(members)]
        images = torch.randn(n, 1, size, size)
        check_equal(answer.predict_classes, models, images, expected=reference(models, images))


@exercise.property("any memory layout")
def layout(answer: ModuleType, rng: random.Random) -> None:
    models, images = [make_classifier(0, 3, 2)], torch.randn(3, 2, 3, 1).permute(1, 3, 2, 0)
    check_equal(answer.predict_classes, models, images, expected=reference(models, images))


@exercise.property("maps")
def maps(answer: ModuleType, rng: random.Random) -> None:
    for n, size, count, members in [(1, 2, 2, 1), (2, 3, 3, 2), (2, 4, 3, 1)]:
        models = [make_pixel_classifier(seed, count) for seed in range(members)]
        images = torch.randn(n, 1, size, size + n - 1)
        check_equal(answer.predict_maps, models, images, expected=reference(models, images, maps=True))


@exercise.property("evaluation mode, and no graph")
def modes(answer: ModuleType, rng: random.Random) -> None:
    for name, inner in (("predict_classes", make_classifier(0, 2, 2)), ("predict_maps", make_pixel_classifier(0, 2))):
        images = torch.randn(2, 1, 2, 2)
        for training in (True, False):
            model = Noisy(inner).train(training)
            got = getattr(answer, name)([model], images)
            check_that(not any(model.modes), f"{name}: the model predicts in training mode", got=model.modes)
            check_that(not model.norm.num_batches_tracked, f"{name}: the running statistics have moved")
            check_that(model.training is training, f"{name}: the mode of the model afterwards", training, model.training)
            check_that(not got.requires_grad, f"{name}: the result has a graph")
        model = Noisy(inner).train()
        model.norm.eval()
        getattr(answer, name)([model], images)
        frozen = not model.norm.training and model.drop.training
        check_that(frozen, f"{name}: one part was frozen by eval(), and another is not; their modes are others afterwards")


@exercise.property("gain over seeds")
def gains(answer: ModuleType, rng: random.Random) -> None:
    for before, after in [
        ([0.5, 0.75], [0.75, 1.0]),
        ([0.5, 0.75], [0.75, 0.75]),
        ([0.6, 0.9, 0.7, 0.8], [0.7, 0.8, 0.8, 0.9]),
    ]:
        gain = [b - a for a, b in zip(before, after, strict=True)]
        mean = sum(gain) / len(gain)
        std = (sum((value - mean) ** 2 for value in gain) / (len(gain) - 1)) ** 0.5
        check_equal(answer.paired_gain, torch.tensor(before), torch.tensor(after), expected=(mean, std))


@exercise.wrong("make_ensemble", "[model] * 5 is five times the same model: five equal opinions are one opinion.")
def one_model_repeated(make, seeds):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds[0])
        return [make()] * len(seeds)


@exercise.wrong(
    "make_ensemble", "torch.manual_seed moves the generator of the whole program: torch.random.fork_rng puts it back."
)
def seeds_everything(make, seeds):
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(make())
    return models


@exercise.wrong("predict_classes", "You average the predicted classes: a vote forgets how sure each view was.")
def votes(models, images):
    with torch.no_grad():
        logits = [predict(model, view) for model in models for view in (images, images.flip(-1))]
    count = logits[0].shape[1]
    return torch.stack([nn.functional.one_hot(z.argmax(1), count).float() for z in logits]).mean(0)


@exercise.wrong(
    "predict_classes", "You average logits: models trained apart have logits of different size, and the largest would win."
)
def averaged_logits(models, images):
    with torch.no_grad():
        return torch.stack([predict(m, v) for m in models for v in (images, images.flip(-1))]).mean(0).softmax(1)


@exercise.wrong("predict_classes", "The images are flipped upside down: the width is the last dimension.")
def upside_down(models, images):
    with torch.no_grad():
        return torch.stack([predict(m, v).softmax(1) for m in models for v in (images, images.flip(-2))]).mean(0)


@exercise.wrong("predict_classes", "The models predict in training mode: dropout is on, and the batch changes the answer.")
def in_training_mode(models, images):
    with torch.no_grad():
        return torch.stack([m(v).softmax(1) for m in models for v in (images, images.flip(-1))]).mean(0)


@exercise.wrong("predict_classes", "eval() is not no_grad(): the probabilities keep a graph of every view and model.")
def with_graph(models, images):
    return torch.stack([predict(m, v).softmax(1) for m in models for v in (images, images.flip(-1))]).mean(0)


@exercise.wrong("predict_classes", "The models are left in evaluation mode: what trains next would train so.")
@torch.no_grad()
def left_in_evaluation(models, images):
    return torch.stack([m.eval()(v).softmax(1) for m in models for v in (images, images.flip(-1))]).mean(0)


@exercise.wrong(
    "predict_classes",
    "train(mode) puts all parts into one mode: what was frozen by eval() is so no more. Keep each one's.",
)
@torch.no_grad()
def thaws(models, images):
    probabilities = []
    for model in models:
        mode = model.training
        probabilities += [model.eval()(view).softmax(1) for view in (images, images.flip(-1))]
        model.train(mode)
    return torch.stack(probabilities).mean(0)


@exercise.wrong("predict_maps", "The map of the flipped image is flipped too: flip it back before the mean.")
@torch.no_grad()
def not_flipped_back(models, images):
    return torch.stack([predict(m, v).softmax(1) for m in models for v in (images, images.flip(-1))]).mean(0)


@exercise.wrong("predict_maps", "softmax(-1) is over the width of the map: the classes are dimension 1.")
@torch.no_grad()
def softmax_over_pixels(models, images):
    maps = [predict(m, images).softmax(-1) for m in models]
    return torch.stack(maps + [predict(m, images.flip(-1)).softmax(-1).flip(-1) for m in models]).mean(0)


@exercise.wrong(
    "paired_gain",
    "This is the spread of the scores: seeds differ for other reasons too. Take the spread of each seed's gain.",
)
def spread_of_scores(before, after):
    return (after.mean() - before.mean()).item(), after.std().item()


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Logits in evaluation mode, and each module's mode put back."""
    modes = [(module, module.training) for module in model.modules()]
    logits = model.eval()(images)
    for module, mode in modes:
        module.training = mode
    return logits


@exercise.also_right("predict_classes")
def one_batch_of_both_views(models, images):
    total = images.new_zeros(())
    for model in models:
        with torch.inference_mode():
            logits = predict(model, torch.cat([images, torch.flip(images, (3,))]))
            total = total + torch.einsum("vnc->nc", torch.softmax(logits, 1).unflatten(0, (2, -1)))
    return total / 2 / len(models) if len(images) else total


@exercise.also_right("predict_maps")
def with_copies(models, images):
    import copy

    total = None
    for model in models:
        frozen = copy.deepcopy(model).eval()
        frozen.modes = model.modes if hasattr(model, "modes") else []
        for mirrored in (False, True):
            view = images[..., torch.arange(images.shape[-1] - 1, -1, -1)] if mirrored else images
            z = frozen(view).detach()
            p = (z - z.logsumexp(1, keepdim=True)).exp()
            p = p.flip(3) if mirrored else p
            total = p if total is None else total + p
    return total / (2 * len(models))
