"""Predictions about modules: shapes of weights, what eval() changes, losses and their reductions."""

import random

from foundations.predictions import Family, Question

NUMBER = "What is it?"
YES = "yes or no?"


def linear_weight(rng: random.Random) -> Question:
    n, m = rng.choice([(64, 10), (784, 128), (512, 256), (3, 8)])
    return Question(
        f"nn.Linear({n}, {m}).weight.shape",
        "Its shape?",
        "The weight is (out_features, in_features) and is multiplied transposed. The article writes it the other way round.",
        {(n, m): "In, out is the order of the arguments."},
    )


def linear_count(rng: random.Random) -> Question:
    n, m = rng.choice([(10, 5), (20, 3), (7, 4)])
    return Question(
        f"sum(p.numel() for p in nn.Linear({n}, {m}).parameters())",
        NUMBER,
        "in * out weights, and one bias for each output.",
        {n * m: "There is a bias, too.", n * m + n: "The bias belongs to the outputs."},
    )


def eval_gradients(rng: random.Random) -> Question:
    layer = rng.choice(["nn.Linear(2, 1)", "nn.Sequential(nn.Linear(2, 1), nn.ReLU())"])
    return Question(
        f"model = {layer}.eval()\nmodel(torch.ones(1, 2)).requires_grad",
        f"Is a graph recorded: {YES}",
        "eval() switches dropout and batch normalization. no_grad() stops the recording.",
        {"no": "eval() is not no_grad()."},
    )


def functional_dropout(rng: random.Random) -> Question:
    p = rng.choice([0.5, 0.9])
    return Question(
        f"class Net(nn.Module):\n    def forward(self, x):\n        return F.dropout(x, {p})\n"
        "torch.equal(Net().eval()(torch.ones(1000)), torch.ones(1000))",
        f"Does it leave its input as it is: {YES}",
        "F.dropout does not know of the module's mode: F.dropout(x, p, self.training), or nn.Dropout.",
        {"yes": "Only modules are switched by eval()."},
    )


def frozen_batch_norm(rng: random.Random) -> Question:
    mean = rng.choice([5.0, -3.0])
    return Question(
        f"norm = nn.BatchNorm1d(1).requires_grad_(False)\nnorm(torch.full((8, 1), {mean}))\nnorm.running_mean.item() == 0",
        f"Is the running mean still 0: {YES}",
        "The statistics are no parameters: in training mode each forward pass moves them. Freeze with eval().",
        {"yes": "requires_grad_(False) is about gradients alone."},
    )


def kl_divergence(rng: random.Random) -> Question:
    p = rng.choice([0.5, 0.25])
    return Question(
        f"p = torch.tensor([[{p}, {1 - p}]])\nF.kl_div(p, p, reduction='batchmean').item() == 0",
        f"The divergence of p from itself is 0. Is this 0: {YES}",
        "kl_div takes the logarithm of the first: F.kl_div(p.log(), p). `batchmean` divides by the samples, `mean` by all.",
        {"yes": "It takes log probabilities."},
    )


def strict_loading(rng: random.Random) -> Question:
    prefix = rng.choice(["module.", "model.", "_orig_mod."])
    return Question(
        "a, b = nn.Linear(2, 1), nn.Linear(2, 1)\n"
        f"b.load_state_dict({{'{prefix}' + k: v for k, v in a.state_dict().items()}}, strict=False)\n"
        "torch.equal(a.weight, b.weight)",
        f"Have they the same weights: {YES}",
        "With strict=False names that do not fit are passed over without a word: look at what it returns.",
        {"yes": f"No name fits: they all begin with {prefix}"},
    )


def state_dict_moves(rng: random.Random) -> Question:
    value = rng.choice([7.0, 3.0])
    return Question(
        "layer = nn.Linear(1, 1)\nbest = layer.state_dict()\n"
        f"nn.init.constant_(layer.weight, {value})\nbest['weight'].item() == {value}",
        f"Has the saved weight changed: {YES}",
        "state_dict() holds the tensors themselves: copy.deepcopy it to keep the best epoch.",
        {"no": "It is no copy."},
    )


def weighted_mean(rng: random.Random) -> Question:
    weight = rng.choice([3.0, 9.0])
    return Question(
        f"logits = torch.zeros(2, 2)\nlabels = torch.tensor([0, 1])\nweight = torch.tensor([1.0, {weight}])\n"
        "torch.isclose(F.cross_entropy(logits, labels, weight), torch.tensor(2.0).log()).item()",
        f"Both losses are log 2. Is the weighted mean log 2: {YES}",
        "It divides by the sum of the weights, not by the number of samples.",
        {"no": "A weighted mean of equal values is that value."},
    )


families: dict[str, Family] = {
    "linear_weight": linear_weight,
    "linear_count": linear_count,
    "eval_gradients": eval_gradients,
    "functional_dropout": functional_dropout,
    "frozen_batch_norm": frozen_batch_norm,
    "kl_divergence": kl_divergence,
    "strict_loading": strict_loading,
    "state_dict_moves": state_dict_moves,
    "weighted_mean": weighted_mean,
}
