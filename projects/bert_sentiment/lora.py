"""Low-rank adaptation (LoRA, Hu et al., arXiv 2106.09685), by `peft`."""

from __future__ import annotations

from torch import nn

from common.errors import UserError
from projects.bert_sentiment.networks import Classifier


def add_lora(net: Classifier, rank: int, alpha: int) -> None:
    """Adds LoRA adapters to the encoder's linear layers, scaled by `alpha` / `rank` (equation 3), and freezes all parameters
    but them and the head. Raises UserError if peft is not installed, ValueError if there is no linear layer."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise UserError('--model.lora_rank: run `pip install "lightning-capstones[lora]"`') from error
    conv1d = [name for name, part in net.encoder.named_modules() if type(part).__name__ == "Conv1D"]  # GPT-2's linear layers
    linear = conv1d + [name for name, part in net.encoder.named_modules() if isinstance(part, nn.Linear)]
    targets = [name for name in linear if not name.startswith("pooler")]  # a part of the head
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, fan_in_fan_out=bool(conv1d))
    inject_adapter_in_model(config, net.encoder)
    encoder = {id(p) for p in net.encoder.parameters()}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("lora_" in name or id(parameter) not in encoder or "pooler" in name)


def merge_lora(net: Classifier) -> None:
    """Merges the adapters into the weights beside them: plain linear layers again."""
    from peft.tuners.lora import LoraLayer

    for parent in list(net.encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
