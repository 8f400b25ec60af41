"""Exercise tiny_translator: an encoder-decoder of one's own parts that learns and decodes alike."""

import copy
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, call, check_that, difference
from foundations.exercise import Exercise
from foundations.translators import fit_with, translator

exercise = Exercise(
    title="A tiny translator: encoder and decoder of your own parts, memorizing sixteen pairs",
    level="challenge",
    minutes=60,
    link="projects.seq2seq.transformer:TransformerModel",
    why="the same network, with a cache of keys and values, and a beam search over its steps",
    hints=(
        "Embed, add positions, go through the layers, norm; for the target the same with the memory, then a linear layer. "
        "translate is a loop: the prefix so far, the logits of its last position, the largest, one token more.",
        "padding = source == 0 goes to the encoder's layers and to the decoder's attention to the memory. Position t of the "
        "decoder reads token t and has the label t + 1.",
        "step: self.decode(prefixes, memory)[:, -1]. After the loop cut each row at its first eos: row[: row.index(3)].",
    ),
    source="torch.nn:Transformer.forward",
    look_at="It takes vectors, not tokens, and every mask as an argument: which of the four masks did you need, and why not "
    "the others?",
    barred=(
        *("torch.nn.Transformer", "torch.nn.TransformerEncoder", "torch.nn.TransformerDecoder"),
        *("torch.nn.TransformerEncoderLayer", "torch.nn.TransformerDecoderLayer"),
    ),
    uses=(
        *("adam", "batch_layer_norm", "cross_entropy", "decoder_layer", "dropout", "embedding", "encoder_layer"),
        *("linear", "positional_encoding"),
    ),
)

SOURCE_SIZE, TARGET_SIZE = 9, 8
SOURCE = torch.tensor([[5, 6, 7], [8, 5, 0]])
TARGET = torch.tensor([[2, 5, 6, 7], [2, 7, 3, 0]])


def make_model(answer: ModuleType, dropout: float = 0.0, seed: int = 0) -> Any:
    """A translator with random weights everywhere: whatever it begins with, all parts matter."""
    torch.manual_seed(seed)
    model = answer.Translator(SOURCE_SIZE, TARGET_SIZE, dim=8, heads=2, hidden=6, layers=1, dropout=dropout)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)
    return model.eval()


def check_same(got: Tensor, expected: Tensor, reason: str, /, **inputs: Tensor) -> None:
    """Raises Failure with `reason` if the values differ; the values depend on the answer's weights and are not shown."""
    check_that(not difference(got, expected, 1e-3, 1e-3), reason, **inputs)


def check_differ(answer: ModuleType, two: Callable[[Any], tuple[Tensor, Tensor]], reason: str, /, **inputs: Tensor) -> None:
    """Raises Failure with `reason` if two values of a model are the same, whichever of several weights it has.

    One choice of weights could hide the difference: where a softmax is all but 0 or 1, and in which order the parts are
    made decides about their weights.
    """
    for seed in range(8):
        if difference(*two(make_model(answer, seed=seed)), 1e-3, 1e-3):
            return
    raise Failure(reason, inputs)


@exercise.property("logits")
def logits(answer: ModuleType, rng: random.Random) -> None:
    model = make_model(answer)
    got = call(model, SOURCE, TARGET)
    shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
    check_that(shape == (2, 4, TARGET_SIZE), "the shape of the logits", (2, 4, TARGET_SIZE), shape)
    check_that(bool(torch.isfinite(got).all()), "logits are not finite", source=SOURCE, target=TARGET)


def weights_behind(output: Tensor) -> dict[int, Tensor]:
    """Weights that an output is computed from, by their ids: the leaves of its graph."""
    found, seen, stack = {}, set(), [output.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
    return found


@exercise.property("the layers and their weights")
def layers(answer: ModuleType, rng: random.Random) -> None:
    counts = []
    for number in (1, 2):
        torch.manual_seed(0)
        model = answer.Translator(SOURCE_SIZE, TARGET_SIZE, dim=8, heads=2, hidden=6, layers=number)
        memory, padding = call(model.encode, SOURCE)
        parts = weights_behind(memory), weights_behind(call(model.decode, TARGET, (memory.detach(), padding)))
        own = {id(parameter) for parameter in model.parameters()}
        missing = [weight for part in parts for name, weight in part.items() if name not in own]
        check_that(not missing, "weights take part that parameters() does not know", layers=number)
        counts.append([sum(weight.numel() for weight in part.values()) for part in parts])
    for name, one, two in zip(("encode", "decode"), *counts, strict=True):
        check_that(two > one, f"{name} computes with as many weights with two layers as with one", layers=2)


@exercise.property("padding changes nothing")
def padding(answer: ModuleType, rng: random.Random) -> None:
    model = make_model(answer)
    source, target = SOURCE[:1], TARGET[:1]
    padded = nn.functional.pad(source, (0, 2))
    shown = {"source": source, "padded": padded}
    memory, again = call(model.encode, source), call(model.encode, padded)
    check_same(again[0][:, :3], memory[0], "padding after the source changes the encoder's output", **shown)
    got, expected = call(model, padded, target), call(model, source, target)
    check_same(got, expected, "padding after the source changes the logits", **shown)
    longer = nn.functional.pad(target, (0, 2))
    got = call(model, source, longer)[:, :4]
    check_same(got, expected, "padding after the target changes the logits before it", target=target, padded=longer)


@exercise.property("neighbors and later tokens change nothing")
def neighbors(answer: ModuleType, rng: random.Random) -> None:
    model = make_model(answer)
    both = call(model, SOURCE, TARGET)
    for i in range(2):
        alone = call(model, SOURCE[i : i + 1], TARGET[i : i + 1])
        check_same(both[i], alone[0], f"sentence {i} alone has other logits", source=SOURCE, target=TARGET)
    later = TARGET.clone()
    later[0, 2] = 4
    got = call(model, SOURCE, later)
    shown = {"target": TARGET, "changed": later}
    check_same(got[0, :2], both[0, :2], "a later token of the target changes the logits before it", **shown)

    def last(model: Any) -> tuple[Tensor, Tensor]:
        return call(model, SOURCE, TARGET)[0, 3], call(model, SOURCE, later)[0, 3]

    check_differ(answer, last, "an earlier token of the target does not change the logits", **shown)


@exercise.property("the order of the words matters")
def order(answer: ModuleType, rng: random.Random) -> None:
    source, swapped = torch.tensor([[5, 6, 7]]), torch.tensor([[6, 5, 7]])

    def two(model: Any) -> tuple[Tensor, Tensor]:
        return call(model, source, TARGET[:1]), call(model, swapped, TARGET[:1])

    reason = "two words of the source exchanged: the logits are the same"
    check_differ(answer, two, reason, source=source, exchanged=swapped)


def steps_of(model: Any, *prefixes: Tensor) -> tuple[Tensor, ...]:
    """What `step` gives for each prefix, with the same sentence."""
    memory = call(model.encode, SOURCE[:1])
    return tuple(call(model.step, prefix, memory) for prefix in prefixes)


@exercise.property("step")
def step(answer: ModuleType, rng: random.Random) -> None:
    first, other, swapped = (torch.tensor([[2, *words, 7]]) for words in ((5, 6), (5, 4), (6, 5)))
    reason = "another token in the middle of the prefix: the logits are the same"
    check_differ(answer, lambda model: steps_of(model, first, other), reason, prefix=first, other=other)
    reason = "two tokens of the prefix exchanged: the logits are the same"
    check_differ(answer, lambda model: steps_of(model, first, swapped), reason, prefix=first, exchanged=swapped)
    model = make_model(answer)
    memory = call(model.encode, SOURCE)
    for count in (1, 2, 3):
        prefixes = TARGET[:, :count]
        expected = call(model, SOURCE, prefixes)[:, -1]
        got = call(model.step, prefixes, memory)
        check_that(got.shape == expected.shape, "the shape of step's logits", tuple(expected.shape), tuple(got.shape))
        check_same(got, expected, "step's logits are not those of forward at the last token", prefixes=prefixes)
    rows = torch.tensor([1, 0, 1])
    got = call(model.step, TARGET[rows, :2], tuple(part[rows] for part in memory))
    expected = call(model, SOURCE[rows], TARGET[rows, :2])[:, -1]
    check_same(got, expected, "rows of the memory, taken as a beam search does, give other logits", rows=rows)


def greedy(model: Any, source: Tensor, max_length: int) -> list[list[int]]:
    """Greedy search by forward, which no padding and no neighbor changes."""
    tokens = torch.full((len(source), 1), 2)
    for _ in range(max_length):
        tokens = torch.cat([tokens, model(source, tokens)[:, -1].argmax(1)[:, None]], 1)
    return [row[1 : row.index(3)] if 3 in row else row[1:] for row in tokens.tolist()]


def check_translations(model: Any, source: Tensor, max_length: int) -> None:
    """Checks `translate` against `greedy`; what differs is said in words, for the tokens depend on the weights."""
    mode = model.training
    with torch.no_grad():
        expected = greedy(model.eval(), source, max_length)
    model.train(mode)
    got = call(model.translate, source, max_length)
    shown = {"source": source, "max_length": max_length}
    fits = isinstance(got, list) and all(isinstance(row, list) for row in got) and len(got) == len(source)
    check_that(fits, "a list with a list of tokens for each sentence is expected", got=type(got).__name__, **shown)
    check_that(not any(3 in row[:-1] for row in got), "tokens follow after eos", **shown)
    check_that(not any(3 in row for row in got), "eos is part of a translation", **shown)
    check_that(
        not any(row[:1] == [2] != want[:1] for row, want in zip(got, expected, strict=True)), "bos begins it", **shown
    )
    check_that(all(len(row) <= max_length for row in got), "a translation is longer than max_length", **shown)
    short = any(row == want[: len(row)] and len(row) < len(want) for row, want in zip(got, expected, strict=True))
    check_that(not short, "a translation ends too early", **shown)
    check_that(got == expected, "translations are not those of a greedy search, sentence by sentence", **shown)
    check_that(model.training is mode, "the mode of the model afterwards", mode, model.training)


def check_frozen(model: Any, source: Tensor) -> None:
    """Checks that parts of a model that is trained come out of `translate` in the mode in which they were."""
    parts = [part for part in model.train().modules() if part is not model]
    for part in parts[::2]:
        part.eval()
    before = [part.training for part in parts]
    call(model.translate, source, 1)
    moved = sum(part.training is not mode for part, mode in zip(parts, before, strict=True))
    check_that(not moved, "parts that were frozen by eval() are in another mode afterwards", source=source)


def some_training(answer: ModuleType, source: Tensor) -> Any:
    """A translator after a few steps of torch's Adam, which have taught it translations of different lengths."""
    torch.manual_seed(0)
    model = answer.Translator(SOURCE_SIZE, TARGET_SIZE, dim=16, heads=2, hidden=16, layers=1)
    target = torch.tensor([[2, 4, 3, 0, 0], [2, 5, 6, 7, 3], [2, 4, 7, 3, 0], [2, 3, 0, 0, 0], [2, 6, 5, 4, 3]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        logits = model(source, target[:, :-1])
        nn.functional.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0).backward()
        optimizer.step()
    return model.eval()


@exercise.property("translate")
def translate(answer: ModuleType, rng: random.Random) -> None:
    words = torch.tensor([[4, 5, 6], [5, 7, 0], [6, 4, 8], [7, 0, 0], [8, 6, 7]])
    model = some_training(answer, words)
    for max_length in (6, 2):
        check_translations(model, words, max_length)
    model = make_model(answer, dropout=0.5).train()
    first, second = call(model.translate, words, 4), call(model.train().translate, words, 4)
    check_that(first == second, "two calls of a model with dropout, in training mode, differ", dropout=0.5)
    check_translations(model.train(), words[:3], 4)
    check_frozen(model, words[:1])


def reference_losses(model: nn.Module, target: Tensor, lr: float, fault: str = "") -> list[float]:
    """Losses of three steps by torch, of a copy of the model."""
    model = copy.deepcopy(model).train()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=lr), []
    inputs = target[:, 1:] if fault == "copies" else target[:, :-1]
    ignored = -100 if fault == "counts padding" else 0
    for _ in range(3):
        scores = model(SOURCE, inputs).flatten(0, 1)
        loss = nn.functional.cross_entropy(scores, target[:, 1:].flatten(), ignore_index=ignored)
        if fault != "adds gradients":
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@exercise.property("losses of fit")
def losses(answer: ModuleType, rng: random.Random) -> None:
    model = make_model(answer)
    expected = reference_losses(model, TARGET, 0.1)
    named = {
        "those of predicting the token that was just read": reference_losses(model, TARGET, 0.1, "copies"),
        "those of a mean over padding, too": reference_losses(model, TARGET, 0.1, "counts padding"),
        "those of gradients that add up": reference_losses(model, TARGET, 0.1, "adds gradients"),
    }
    shown = {"source": SOURCE, "target": TARGET, "steps": 3, "lr": 0.1}
    got = call(answer.fit, copy.deepcopy(model), SOURCE, TARGET, 3, 0.1)
    if difference(got, expected, 1e-3, 1e-3):
        for name, values in named.items():
            check_that(bool(difference(got, values, 1e-3, 1e-3)), f"the losses are {name}", **shown)
        raise Failure(f"the losses: {difference(got, expected, 1e-3, 1e-3)}", shown, expected, got)
    model = make_model(answer, dropout=0.9)
    got = call(answer.fit, copy.deepcopy(model), SOURCE, TARGET, 1, 0.1)[0]
    still = nn.functional.cross_entropy(model(SOURCE, TARGET[:, :-1]).flatten(0, 1), TARGET[:, 1:].flatten(), ignore_index=0)
    check_that(abs(got - still.item()) > 1e-4, "a model that came in evaluation mode is trained in it", dropout=0.9)


def sentence_pairs() -> tuple[Tensor, Tensor, list[list[int]]]:
    """Sixteen sources, their targets, and the words of these; both of unequal lengths."""
    rng = random.Random(3)
    source, target, words = torch.zeros(16, 4, dtype=torch.int64), torch.zeros(16, 6, dtype=torch.int64), []
    for i in range(16):
        row = [4 + i % 8, 4 + i // 8, *(rng.randrange(4, 12) for _ in range(rng.randrange(3)))]
        words.append([rng.randrange(4, 10) for _ in range(rng.randrange(1, 5))])
        source[i, : len(row)] = torch.tensor(row)
        target[i, : len(words[i]) + 2] = torch.tensor([2, *words[i], 3])
    return source, target, words


@exercise.property("sixteen pairs are memorized")
def memorizes(answer: ModuleType, rng: random.Random) -> None:
    torch.manual_seed(1)
    source, target, words = sentence_pairs()
    model = answer.Translator(12, 10, dim=32, heads=2, hidden=64, layers=1)
    found = call(answer.fit, model, source, target, 100, 0.005)
    check_that(found[-1] < 0.1, "the loss after 100 steps is not below 0.1", 0.1, found[-1], lr=0.005)
    for i, (got, want) in enumerate(zip(call(model.translate, source, 8), words, strict=True)):
        check_that(got == want, "a training pair is translated otherwise", want, got, source=source[i])


exercise.wrong(
    "Translator",
    "The layers stand in a plain list: neither parameters() nor eval() reaches them. nn.ModuleList makes them known.",
)(translator("plain_list"))
exercise.wrong("Translator", "The encoder has one layer whatever `layers` says: make that many, with weights of their own.")(
    translator("one_encoder_layer")
)
exercise.wrong("Translator", "The decoder has one layer whatever `layers` says: make that many, with weights of their own.")(
    translator("one_decoder_layer")
)
exercise.wrong("Translator", "The encoder attends to the source's padding: its layers take the mask, too.")(
    translator("encoder_sees")
)
exercise.wrong(
    "Translator",
    "The source's padding is masked in the encoder and forgotten in the decoder's attention to the memory: a sentence is "
    "translated otherwise when a longer one stands beside it.",
)(translator("decoder_sees"))
exercise.wrong("Translator", "Positions are missing: to attention the source is a bag of words.")(translator("no_positions"))
exercise.wrong(
    "Translator",
    "step passes the last token alone to the decoder: what was written before it is lost, unless keys and values are kept.",
)(translator("last_alone"))
exercise.wrong(
    "Translator", "In step every token has the position 0, as if it were the first: positions count from bos on."
)(translator("restarts"))
exercise.wrong("Translator", "The search does not stop at eos: what comes after it is no translation.")(
    translator("goes_on")
)
exercise.wrong("Translator", "The result ends with eos: cut before it.")(translator("keeps_eos"))
exercise.wrong("Translator", "The search ends when the first sentence does: the others of the batch are cut off.")(
    translator("first_ends")
)
exercise.wrong("Translator", "translate runs in training mode: dropout makes each call another. self.eval() first.")(
    translator("drops_out")
)
exercise.wrong("Translator", "translate leaves the model in evaluation mode: what is trained next has no dropout.")(
    translator("left_in_eval")
)
exercise.wrong(
    "Translator", "train(mode) puts all parts into one mode: what was frozen by eval() is so no more. Keep each one's."
)(translator("thaws"))
exercise.wrong(
    "fit",
    "Inputs and labels are the same tokens: the network learns to copy what it has just read. The loss falls to 0, and "
    "token by token nothing comes out. Shift by one.",
)(fit_with("copies"))
exercise.wrong("fit", "The mean counts the padding: ignore the label 0.")(fit_with("counts"))
exercise.wrong("fit", "Gradients add up from step to step: zero_grad.")(fit_with("kept"))
exercise.wrong("fit", "The model trains in the mode in which it came: model.train() first, or dropout may be off.")(
    fit_with("eval_mode")
)
exercise.also_right("Translator")(translator(""))
exercise.also_right("fit")(fit_with(""))


@exercise.also_right("Translator")
class OtherWeights(translator("")):
    """It takes one random number more: an earlier token that attention looks away from must not count as hidden."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        torch.rand(1)
