"""Integrated gradients (Sundararajan et al., arXiv 1703.01365): attributions of a prediction to the words of its text."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from projects.bert_sentiment.inference import TextClassifier
from projects.bert_sentiment.networks import Classifier


def word_attributions(classifier: TextClassifier, text: str, n_steps: int = 32) -> tuple[list[str], Tensor]:
    """Words of a text, and their attributions (words,) to the predicted class, in logits.

    The attribution of a word is the sum over its tokens (`integrated_gradients`); special tokens are left out.
    """
    device = next(classifier.net.parameters()).device
    encoding = classifier.tokenizer(text, truncation=True, max_length=classifier.max_length, return_offsets_mapping=True)
    input_ids = torch.tensor(encoding["input_ids"], device=device)
    word_ids = encoding.word_ids()  # of each token; None for special tokens
    is_word = torch.tensor([word is not None for word in word_ids], device=device)
    values = integrated_gradients(classifier.net, input_ids, is_word, classifier.tokenizer.pad_token_id, n_steps)
    spans: dict[int, tuple[int, int]] = {}
    sums: defaultdict[int, float] = defaultdict(float)
    for word, (start, end), value in zip(word_ids, encoding["offset_mapping"], values.tolist(), strict=True):
        if word is not None:
            spans[word] = spans.get(word, (start, end))[0], end
            sums[word] += value
    return [text[start:end] for start, end in spans.values()], torch.tensor(list(sums.values()))


def integrated_gradients(net: Classifier, input_ids: Tensor, replaced: Tensor, baseline_id: int, n_steps: int) -> Tensor:
    """Attribution of each token to the predicted class, (time,), by equation 3 of the paper.

    The path leads from the baseline, the text with `baseline_id` in place of its words, to the text. The output explained is
    the predicted class's logit minus the mean of the others. Completeness: the attributions add up to how far it rises along
    the path, up to the error of the midpoint rule, which falls with the square of `n_steps`.

    `input_ids` (time,) are those of one text, `replaced` (time,) is true at tokens that the baseline replaces.
    """
    embed = net.encoder.get_input_embeddings()  # type: ignore[operator]
    mask = torch.ones_like(input_ids)[None]
    with torch.no_grad():
        embeds, baseline = embed(input_ids), embed(torch.where(replaced, baseline_id, input_ids))  # (time, hidden)
        target = int(net(input_ids[None], mask).argmax())
    alphas = (torch.arange(n_steps, device=input_ids.device) + 0.5) / n_steps
    path = (baseline + alphas[:, None, None] * (embeds - baseline)).requires_grad_()  # (n_steps, time, hidden)
    logits = net(None, mask.expand(n_steps, -1), path)  # (n_steps, classes)
    others = (logits.sum(1) - logits[:, target]) / (logits.shape[1] - 1)
    (gradient,) = torch.autograd.grad((logits[:, target] - others).sum(), path)
    return ((embeds - baseline) * gradient.mean(0)).sum(1)
