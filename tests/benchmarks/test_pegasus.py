"""Pegasus with this project's weights: it computes the same logits."""

from __future__ import annotations

import pytest
import torch

from benchmarks.pegasus import to_pegasus
from common.errors import UserError
from projects.seq2seq.config import BOS, TransformerConfig
from projects.seq2seq.transformer import TransformerModel


def make_net(**options: object) -> TransformerModel:
    torch.manual_seed(0)
    net = TransformerModel((50, 50), TransformerConfig(d_model=32, ff_dim=64, num_layers=2, **options), "all").eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def test_pegasus_has_the_logits_of_the_transformer():
    net = make_net()
    source, target = torch.randint(4, 50, (3, 7)), torch.randint(4, 50, (3, 5))
    target[:, 0] = BOS
    lengths = torch.tensor([7, 5, 2])
    mask = (torch.arange(7) < lengths[:, None]).long()
    with torch.no_grad():
        expected = net.output_layer(net(source, lengths, target))
        logits = to_pegasus(net)(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"norm_first": False}, {"position_embedding": "rotary"}])
def test_another_transformer_is_refused(options):
    with pytest.raises(UserError, match="norm_first"):
        to_pegasus(make_net(**options))
