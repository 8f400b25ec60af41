"""AdamW for fine-tuning: lower layers learn more slowly, biases and norms do not decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from projects.bert_sentiment.networks import Classifier, layer_depths


def parameter_groups(
    net: Classifier, layers: int, lr: float, layer_decay: float, head_lr: float | None, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups of all parameters that take a gradient, one for each depth, with and without decay.

    A layer with n layers above it learns at `lr` * `layer_decay` ** n, the embeddings as if they were one layer more below
    (Howard and Ruder, arXiv 1801.06146, section 3.2; Clark et al., arXiv 2003.10555, appendix A).

    Args:
        net: the classifier.
        layers: of its encoder.
        lr: of the top layer.
        layer_decay: the factor from a layer to the one below.
        head_lr: of the head; `lr` if it is None.
        weight_decay: of all weights but vectors, which are biases and the scales of norms.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for _, parameter, depth in layer_depths(net, layers):
        if not parameter.requires_grad:
            continue
        decays = parameter.dim() > 1
        rate = (lr if head_lr is None else head_lr) if depth == 0 else lr * layer_decay ** (depth - 1)
        group = groups.setdefault(
            (depth, decays),
            {
                "params": [],
                "lr": rate,
                "weight_decay": weight_decay if decays else 0.0,
                "name": f"depth{depth}{'' if decays else '-vectors'}",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def add_lora(net: Classifier, rank: int, alpha: int, dropout: float) -> None:
    """Puts low-rank adapters beside the encoder's linear layers, and freezes all but them and the head.

    Hu et al., arXiv 2106.09685, equation 3.

    Args:
        rank: of the adapters.
        alpha: what they add counts alpha / rank times.
        dropout: share of their input that is dropped in training.

    Raises:
        ModuleNotFoundError: peft is not installed.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, part in net.encoder.named_modules() if isinstance(part, nn.Linear)]
    names = [name for name in linear if not name.startswith("pooler")]  # a part of the head
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
    inject_adapter_in_model(config, net.encoder)
    inside = {id(p) for p in net.encoder.parameters()}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("lora_" in name or id(parameter) not in inside or "pooler" in name)


def merge_lora(net: Classifier) -> None:
    """Adds the adapters' products to the weights beside them, and puts plain linear layers in their places."""
    from peft.tuners.lora import LoraLayer

    for parent in list(net.encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
