"""Exercise embedding: a lookup and its gradient."""

import random
from types import ModuleType

import torch
from torch import Tensor, nn

from foundations.comparing import check_equal, check_that, difference
from foundations.exercise import Exercise
from foundations.modules import check_state_dict, load_same

exercise = Exercise(
    title="Embedding: a table of vectors, one for each token",
    level="warm-up",
    minutes=10,
    link="projects.seq2seq.transformer:TransformerModel",
    why="tokens become vectors before anything else; the same table can be the output layer",
    hints=(
        "The table is one parameter; a lookup is an index by a tensor.",
        "self.weight[tokens] has the shape of tokens plus one dimension, and its gradient adds up where tokens repeat.",
        "For the padding: torch.where(padding, vectors.detach(), vectors), which cuts the gradient there.",
    ),
    source="torch._decomp.decompositions:embedding_dense_backward",
    look_at="The way back is an index_put with accumulate=True, and a mask for padding_idx.",
    barred=("embedding", "embedding_bag", "torch.nn.Embedding", "torch.nn.EmbeddingBag"),
)


@exercise.property("state dict and start")
def start(answer: ModuleType, rng: random.Random) -> None:
    check_state_dict(answer.Embedding(5, 3), nn.Embedding(5, 3))
    weight = answer.Embedding(400, 20, padding_idx=2).weight.detach()
    check_that(not weight[2].any(), "the row of padding_idx does not begin with zeros", torch.zeros(20), weight[2])
    std = weight[3:].std().item()
    check_that(abs(std - 1) < 0.1, "the rows do not begin as standard normal: their standard deviation", 1.0, std)


@exercise.property("values")
def values(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(1,), (3,), (2, 3), (0,), (2, 1, 2)]:
        ours, theirs = load_same(answer.Embedding(5, 2), nn.Embedding(5, 2))
        tokens = torch.randint(5, shape)
        check_equal(ours, tokens, expected=theirs(tokens).detach())
    ours, theirs = load_same(answer.Embedding(5, 2, padding_idx=0), nn.Embedding(5, 2))
    tokens = torch.tensor([[0, 3], [1, 0]])
    check_equal(ours, tokens, expected=theirs(tokens).detach())


def check_gradient(answer: ModuleType, tokens: Tensor, padding_idx: int | None) -> None:
    """Compares the gradient of the table with torch's."""
    ours, theirs = load_same(answer.Embedding(5, 2, padding_idx), nn.Embedding(5, 2, padding_idx))
    weights = torch.arange(1.0, 2 * tokens.numel() + 1).view(*tokens.shape, 2)
    for module in (ours, theirs):
        (module(tokens) * weights).sum().backward()
    got, want = ours.weight.grad, theirs.weight.grad
    assert isinstance(want, Tensor)
    got = torch.zeros_like(want) if got is None else got
    reason = difference(got, want, 1e-5, 1e-6)
    check_that(not reason, f"gradient of the table: {reason}", want, got, tokens=tokens, padding_idx=padding_idx)


@exercise.property("gradient, also of repeated tokens")
def gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradient(answer, torch.tensor([1, 3]), None)
    check_gradient(answer, torch.tensor([[1, 1], [3, 1]]), None)


@exercise.property("padding gets no gradient")
def padding(answer: ModuleType, rng: random.Random) -> None:
    check_gradient(answer, torch.tensor([[1, 0], [0, 1]]), 0)
    check_gradient(answer, torch.tensor([2, 4]), 2)


class _LastWins(torch.autograd.Function):
    """Lookup whose way back writes instead of adding."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, weight: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(weight, tokens)
        return weight[tokens]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        weight, tokens = ctx.saved_tensors
        result = torch.zeros_like(weight)
        for token, row in zip(tokens.flatten().tolist(), grad.flatten(0, -2), strict=True):
            result[token] = row
        return result, None


def embedding(fault: str) -> type:
    """Embedding with one of the known faults."""

    class Embedding(nn.Module):
        def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
            super().__init__()
            self.padding_idx = padding_idx
            scale = 0.01 if fault == "small" else 1.0
            self.weight = nn.Parameter(scale * torch.randn(num_embeddings, embedding_dim))
            if padding_idx is not None and fault != "padding_random":
                with torch.no_grad():
                    self.weight[padding_idx] = 0

        def forward(self, tokens: Tensor) -> Tensor:
            if fault == "double":
                one_hot = torch.eye(len(self.weight), dtype=torch.float64)[tokens]
                return one_hot @ self.weight.double()
            vectors = _LastWins.apply(self.weight, tokens) if fault == "last_wins" else self.weight[tokens]
            if self.padding_idx is None or fault == "padding_learns":
                return vectors
            padding = (tokens == self.padding_idx)[..., None]
            if fault == "zeroed":
                return vectors.masked_fill(padding, 0.0)
            return torch.where(padding, vectors.detach(), vectors)

    return Embedding


exercise.wrong("Embedding", "The padding's row gets a gradient: it would learn from positions that are not there.")(
    embedding("padding_learns")
)
exercise.wrong("Embedding", "A token that occurs twice must get both gradients, added.")(embedding("last_wins"))
exercise.wrong("Embedding", "One-hot vectors in float64 make everything after them float64.")(embedding("double"))
exercise.wrong("Embedding", "The padding's row begins at random; zeros are asked for.")(embedding("padding_random"))
exercise.wrong(
    "Embedding",
    "The result at the padding is forced to 0: it is the table's row, which may have been loaded with something else.",
)(embedding("zeroed"))
exercise.also_right("Embedding")(embedding(""))


@exercise.also_right("Embedding")
class ByIndexSelect(nn.Module):
    """index_select, and a hook on the gradient."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim).normal_())
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0
            mask = torch.ones(num_embeddings, 1)
            mask[padding_idx] = 0
            self.weight.register_hook(lambda grad: grad * mask)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.weight.index_select(0, tokens.reshape(-1)).view(*tokens.shape, self.weight.shape[1])
