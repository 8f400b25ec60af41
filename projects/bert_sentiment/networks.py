"""Sequence classification on a pretrained encoder: heads, pooling, and the depth of each layer.

The encoder is a `transformers` model, but only torch is imported: copy this file anywhere.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from torch import Tensor, nn


class SequenceClassifier(nn.Module):
    """Sequence classification with the head of the checkpoint's own architecture, on the first token for most encoders.

    Args:
        model: Maps input_ids and attention_mask to an object with `logits`; `base_model` is its encoder.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> nn.Module:
        """The pretrained part."""
        return self.model.base_model  # type: ignore[return-value]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids and attention_mask (batch, time) -> logits (batch, classes)."""
        if getattr(self.model.config, "summary_type", None) == "last":  # XLNet: its last token must not be padding
            order = attention_mask.argsort(dim=1, stable=True)
            input_ids, attention_mask = input_ids.gather(1, order), attention_mask.gather(1, order)
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


class MeanPooling(nn.Module):
    """Mean pooling: a linear layer on the mean of all tokens' hidden states (Reimers and Gurevych, arXiv 1908.10084).

    For encoders that were pretrained as sentence embeddings; their first token sums up nothing.

    Args:
        encoder: Maps input_ids and attention_mask to an object with `last_hidden_state`.
        hidden_size: Dimension of the hidden states.
        num_classes: Number of classes.
        dropout: Dropout probability of the pooled vector.
    """

    def __init__(self, encoder: nn.Module, hidden_size: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Shapes as in `SequenceClassifier.forward`."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        hidden_states = output.last_hidden_state  # (batch, time, hidden)
        mask = attention_mask[:, :, None].to(hidden_states.dtype)  # (batch, time, 1)
        mean = (hidden_states * mask).sum(1) / mask.sum(1)  # (batch, hidden)
        return self.classifier(self.dropout(mean))


Classifier = SequenceClassifier | MeanPooling


def build_classifier(model: Any, pooling: str, num_classes: int) -> Classifier:
    """Classifier from a `transformers` model: with its own head (pooling `cls`), or a new one on the mean (`mean`)."""
    if pooling == "cls":
        return SequenceClassifier(model)
    encoder = model.base_model
    if hasattr(encoder, "pooler"):
        encoder.pooler = None  # made for the first token; without a gradient DDP would wait for it
    return MeanPooling(encoder, model.config.hidden_size, num_classes, getattr(model.config, "hidden_dropout_prob", 0.1))


def layer_stack(encoder: nn.Module, num_layers: int) -> nn.ModuleList | None:
    """List of the encoder's layers, lowest first; None if it has none, as encoders whose layers share their weights."""
    lists = (part for part in encoder.modules() if isinstance(part, nn.ModuleList))
    return next((part for part in lists if len(part) == num_layers), None)


def layer_depths(net: Classifier, num_layers: int) -> dict[str, int]:
    """Depth of every parameter by its name: the number of layers from the head down to it.

    0 is the head and what else is neither layer nor embedding, 1 the encoder's top layer, `num_layers` its lowest, and
    `num_layers` + 1 the embeddings: all that is registered before the first layer.
    """
    depth: dict[int, int] = {}  # by the parameter's id
    stack = layer_stack(net.encoder, num_layers)
    if stack is not None:
        depth = {id(p): num_layers - i for i, layer in enumerate(stack) for p in layer.parameters()}
        embeddings = list(takewhile(lambda p: id(p) not in depth, net.encoder.parameters()))
        depth |= {id(p): num_layers + 1 for p in embeddings}
    return {name: depth.get(id(p), 0) for name, p in net.named_parameters()}


def freeze_layers(net: Classifier, layers: int, num_layers: int) -> None:
    """Layer freezing: no gradient for the embeddings and the lowest `layers` of `num_layers` layers.

    Raises ValueError if the encoder has no list of so many layers.
    """
    if layers > num_layers or layer_stack(net.encoder, num_layers) is None:
        raise ValueError(f"the encoder has no {layers} layers of their own weights")
    depths = layer_depths(net, num_layers)
    for name, parameter in net.named_parameters():
        if depths[name] > num_layers - layers:
            parameter.requires_grad_(False)


def reinit_top_layers(encoder: nn.Module, fresh: nn.Module, layers: int, num_layers: int) -> None:
    """Re-initialization of the top `layers` of `num_layers` layers (Zhang et al., arXiv 2006.05987).

    They know most about the pretraining task, which is of no use to another one. Their weights become those of `fresh`, the
    same architecture with random weights. Raises ValueError if the encoder has no list of so many layers.
    """
    target, source = layer_stack(encoder, num_layers), layer_stack(fresh, num_layers)
    if target is None or source is None or layers > num_layers:
        raise ValueError(f"the encoder has no {layers} layers of their own weights")
    target[num_layers - layers :].load_state_dict(source[num_layers - layers :].state_dict())


def fold_temperature(net: Classifier, temperature: float, num_classes: int) -> None:
    """Divides all logits by `temperature`, in weights of the output layer. Raises ValueError if that is not linear."""
    encoder = set(net.encoder.modules())
    linear = [part for part in net.modules() if isinstance(part, nn.Linear) and part not in encoder]
    if not linear or linear[-1].out_features != num_classes:
        raise ValueError("the head has no linear output layer")
    for parameter in linear[-1].parameters():
        parameter.data /= temperature


def set_dropout(net: nn.Module, p: float) -> None:
    """Sets the probability of every dropout layer."""
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = p
