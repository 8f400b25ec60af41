"""A classifier on top of any encoder, and what fine-tuning does to its layers: new ones, frozen ones, slower ones.

The encoder is a `transformers` model, but only `torch` is imported: copy this file anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn


class OwnHead(nn.Module):
    """The checkpoint's own way to classify: what its designers put on top, on the first token for most encoders.

    Args:
        model: maps input_ids (or inputs_embeds) and attention_mask to an object with `logits`; `base_model` is its encoder.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> nn.Module:
        """The part that was pretrained."""
        return self.model.base_model  # type: ignore[return-value]

    def forward(self, ids: Tensor | None, mask: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """ids (batch, time), or their embeddings (batch, time, width), and mask (batch, time) -> logits (batch, classes)."""
        return self.model(input_ids=ids, attention_mask=mask, inputs_embeds=embeddings).logits


class MeanPooling(nn.Module):
    """A linear layer on the mean of all tokens' vectors (Reimers and Gurevych, arXiv 1908.10084, section 3).

    For encoders that were pretrained so, whose first token says nothing in particular.

    Args:
        encoder: maps input_ids (or inputs_embeds) and attention_mask to an object with `last_hidden_state`.
        width: of its vectors.
        classes: how many there are.
        dropout: share of the mean vector that is dropped in training.
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, ids: Tensor | None, mask: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """ids (batch, time), or their embeddings (batch, time, width), and mask (batch, time) -> logits (batch, classes)."""
        states = self.encoder(input_ids=ids, attention_mask=mask, inputs_embeds=embeddings).last_hidden_state
        real = mask[:, :, None].to(states.dtype)  # (batch, time, 1)
        mean = (states * real).sum(1) / real.sum(1)  # (batch, width)
        return self.classifier(self.dropout(mean))


Classifier = OwnHead | MeanPooling


def with_head(model: Any, pooling: str, classes: int) -> Classifier:
    """`model`, a `transformers` model for classification, with its own head (`cls`) or a new one on the mean (`mean`)."""
    if pooling == "cls":
        return OwnHead(model)
    encoder = model.base_model
    if hasattr(encoder, "pooler"):
        encoder.pooler = None  # made for the first token; without a gradient DDP would wait for it
    return MeanPooling(encoder, model.config.hidden_size, classes, getattr(model.config, "hidden_dropout_prob", 0.1))


def layer_stack(encoder: nn.Module, count: int) -> nn.ModuleList | None:
    """The encoder's `count` layers, lowest first; None if it has no such list, as encoders whose layers share weights."""
    return next((part for part in encoder.modules() if isinstance(part, nn.ModuleList) and len(part) == count), None)


def layer_depths(net: Classifier, count: int) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Every parameter with its name and how many layers are above its own.

    0 is the head and what else is no layer and no embedding, 1 the encoder's top layer, `count` its lowest, and `count` + 1
    what is below them. The order of the parameters is the module's.
    """
    stack = layer_stack(net.encoder, count)
    depth = {} if stack is None else {id(p): count - i for i, layer in enumerate(stack) for p in layer.parameters()}
    below = {id(p) for p in _below(net.encoder, stack)}
    for name, parameter in net.named_parameters():
        yield name, parameter, count + 1 if id(parameter) in below else depth.get(id(parameter), 0)


def _below(encoder: nn.Module, stack: nn.ModuleList | None) -> Iterator[nn.Parameter]:
    """The parameters that the encoder uses before its first layer: those of its parts that are registered before it."""
    for child in encoder.children():
        if stack is None or any(part is stack for part in child.modules()):
            if stack is not None and child is not stack:
                yield from _below(child, stack)
            return
        yield from child.parameters()


def freeze(net: Classifier, layers: int, count: int) -> None:
    """Stops the gradient of all that is below the layer number `layers` of `count`: the embeddings and that many layers."""
    for _, parameter, depth in layer_depths(net, count):
        if depth > count - layers:
            parameter.requires_grad_(False)


def renew_top(encoder: nn.Module, layers: int, count: int, init: Callable[[nn.Module], None]) -> None:
    """Gives the top `layers` of an encoder's `count` layers new random weights (Zhang et al., arXiv 2006.05987).

    The top layers know most about what the encoder was pretrained to predict, which is no use to another task.

    Args:
        init: draws the weights of one module, as at the encoder's own birth.

    Raises:
        ValueError: the encoder has no list of so many layers.
    """
    stack = layer_stack(encoder, count)
    if stack is None or layers > count:
        raise ValueError(f"it has no {layers} layers of its own to renew")
    for layer in list(stack)[count - layers :]:
        layer.apply(init)


def set_dropout(net: nn.Module, p: float) -> None:
    """Sets the share that every dropout layer drops."""
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = p
