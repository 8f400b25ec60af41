"""Integrated gradients (Sundararajan et al., arXiv 1703.01365): attributions of a prediction to the words of its text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from projects.bert_sentiment.inference import TextClassifier
from projects.bert_sentiment.networks import Classifier


def word_attributions(classifier: TextClassifier, text: str, n_steps: int = 32) -> tuple[list[str], Tensor]:
    """Words of a text, and their attributions (words,) to the predicted class, in logits.

    The attribution of a word is the sum over its tokens (`integrated_gradients`); special tokens are left out.
    """
    device, tokenizer = next(classifier.net.parameters()).device, classifier.tokenizer
    fast = tokenizer.is_fast  # a tokenizer in Python knows neither words nor places: each of its tokens counts as a word
    encoding = tokenizer(text, truncation=True, max_length=classifier.max_length, return_offsets_mapping=fast)
    input_ids: list[int] = encoding["input_ids"]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    word_ids = encoding.word_ids() if fast else [None if token in special else i for i, token in enumerate(input_ids)]
    values = integrated_gradients(
        classifier.net,
        torch.tensor(input_ids, device=device),
        torch.tensor([word is not None for word in word_ids], device=device),
        tokenizer.pad_token_id,
        n_steps,
    )
    spans: dict[int, tuple[int, int]] = {}
    sums: defaultdict[int, float] = defaultdict(float)
    offsets = encoding["offset_mapping"] if fast else [(i, i + 1) for i in range(len(input_ids))]
    for word, (start, end), value in zip(word_ids, offsets, values.tolist(), strict=True):
        if word is not None:
            spans[word] = spans.get(word, (start, end))[0], end
            sums[word] += value
    names = [text[a:b].strip() if fast else str(tokenizer.convert_ids_to_tokens(input_ids[a])) for a, b in spans.values()]
    return names, torch.tensor(list(sums.values()))


def integrated_gradients(net: Classifier, input_ids: Tensor, replaced: Tensor, baseline_id: int, n_steps: int) -> Tensor:
    """Attribution of each token to the predicted class, (time,), by equation 3 of the paper.

    The path leads from the baseline, the text with `baseline_id` in place of its words, to the text. The output explained is
    the predicted class's logit minus the mean of the others. Completeness: the attributions add up to how far it rises along
    the path, up to the error of the midpoint rule, which falls with the square of `n_steps`.

    `input_ids` (time,) are those of one text, `replaced` (time,) is true at tokens that the baseline replaces.
    """
    ids = input_ids.expand(n_steps, -1)  # (n_steps, time)
    with torch.no_grad():
        target = int(net(ids[:1], torch.ones_like(ids[:1])).argmax())
    weight = net.encoder.get_input_embeddings().weight  # type: ignore[operator]
    steps = (torch.arange(n_steps, device=weight.device, dtype=weight.dtype) + 0.5) / n_steps
    alphas = torch.where(replaced, steps[:, None], 1.0).requires_grad_()  # (n_steps, time)
    with embeddings_on_path(net, input_ids, baseline_id, alphas):
        logits = net(ids, torch.ones_like(ids))  # (n_steps, classes)
    others = (logits.sum(1) - logits[:, target]) / (logits.shape[1] - 1)
    (gradient,) = torch.autograd.grad((logits[:, target] - others).sum(), alphas)  # (embedding - baseline) * its gradient
    return torch.where(replaced, gradient.mean(0), 0.0)


@contextmanager
def embeddings_on_path(net: Classifier, input_ids: Tensor, baseline_id: int, alphas: Tensor) -> Iterator[None]:
    """Context in which the embedding e of each token is baseline + alpha * (e - baseline), by hooks on the embedding layers.

    (Not every encoder takes embeddings in place of token ids.) `input_ids` (time,), `alphas` (n_steps, time). A decoder's
    tokens are those of the text behind a start token; what else an encoder adds at the end has alpha 1.
    """
    weight, time = net.encoder.get_input_embeddings().weight, len(input_ids)  # type: ignore[operator]

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        ids = args[0]  # (n_steps, time), or (time, n_steps) in XLNet, where not all rows are equal
        batch_first = bool((ids == ids[:1]).all())
        row = ids[0] if batch_first else ids[:, 0]
        start = int(not torch.equal(row[:time], input_ids))
        path = F.pad(alphas, (start, len(row) - time - start), value=1.0)
        baseline = module.forward(ids.new_tensor([baseline_id]))[0]  # (hidden,)
        return baseline + (path if batch_first else path.T)[:, :, None] * (output - baseline)

    tables = [part for part in net.encoder.modules() if getattr(part, "weight", None) is weight]
    handles = [part.register_forward_hook(hook) for part in tables]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
