"""Layer-wise learning-rate decay: AdamW's parameter groups for fine-tuning."""

from __future__ import annotations

from typing import Any

from projects.bert_sentiment.networks import Classifier, layer_depths


def parameter_groups(
    net: Classifier, num_layers: int, lr: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups of all trainable parameters: one for each depth, with and without weight decay.

    Head and top layer learn at `lr`, a layer with n layers above it at `lr` * `layer_decay` ** n, the embeddings like one
    more layer below (Howard and Ruder, arXiv 1801.06146, section 3.2; Clark et al., arXiv 2003.10555, appendix A).
    Biases and the scales of norms, which are vectors, have no weight decay.
    """
    depths = layer_depths(net, num_layers)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        depth, decays = depths[name], parameter.dim() > 1
        group_name = f"depth{depth}{'' if decays else '-vectors'}"
        settings = {"lr": lr * layer_decay ** max(0, depth - 1), "weight_decay": weight_decay if decays else 0.0}
        group = groups.setdefault(group_name, {"params": [], **settings, "name": group_name})
        group["params"].append(parameter)
    return list(groups.values())
