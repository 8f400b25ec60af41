"""Pegasus of `transformers` with the weights of this project's Transformer: the same network behind `generate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.errors import UserError
from projects.seq2seq.config import BOS, EOS, PAD
from projects.seq2seq.transformer import MultiHeadAttention, TransformerModel, sinusoidal_embedding

MAX_POSITIONS = 512


def to_pegasus(net: TransformerModel) -> Any:
    """`PegasusForConditionalGeneration` in eval mode that computes what `net` does: its norms and sinusoids are the same.

    Raises:
        UserError: The network is post-norm, has rotary positions, or does not tie all embeddings.
    """
    from transformers import PegasusForConditionalGeneration

    if isinstance(net.encoder_norm, nn.Identity) or net.source_embedding is not net.target_embedding or net.rotary:
        raise UserError("--checkpoint: needs a Transformer with norm_first, tie_word_embeddings all, sinusoidal positions")
    pegasus = PegasusForConditionalGeneration(pegasus_config(net)).eval()
    model = pegasus.model
    with torch.no_grad():
        model.shared.weight.copy_(net.target_embedding.weight)
        pegasus.final_logits_bias.copy_(net.output_layer.bias)
        for stack in (model.encoder, model.decoder):
            stack.embed_positions.weight.copy_(sinusoidal_embedding(MAX_POSITIONS, net.target_embedding.embedding_dim))
    copy_layer(net.encoder_norm, model.encoder.layer_norm)
    copy_layer(net.decoder_norm, model.decoder.layer_norm)
    for ours, theirs in zip([*net.encoder, *net.decoder], [*model.encoder.layers, *model.decoder.layers], strict=True):
        copy_attention(ours.self_attn, theirs.self_attn)
        copy_layer(ours.norm1, theirs.self_attn_layer_norm)
        last_norm = ours.norm2
        if hasattr(theirs, "encoder_attn"):
            copy_attention(ours.cross_attn, theirs.encoder_attn)
            copy_layer(ours.norm2, theirs.encoder_attn_layer_norm)
            last_norm = ours.norm3
        copy_layer(ours.feed_forward[0], theirs.fc1)
        copy_layer(ours.feed_forward[2], theirs.fc2)
        copy_layer(last_norm, theirs.final_layer_norm)
    return pegasus


def pegasus_config(net: TransformerModel) -> Any:
    """`PegasusConfig` of the network's dimensions."""
    from transformers import PegasusConfig

    vocab_size, d_model = net.target_embedding.weight.shape
    layer: Any = net.decoder_layers[0]
    num_layers, num_heads, ff_dim = len(net.decoder_layers), layer.self_attn.num_heads, layer.feed_forward[0].out_features
    config: Any = PegasusConfig  # a dataclass whose annotations lack some arguments
    return config(
        vocab_size=vocab_size,
        d_model=d_model,
        encoder_layers=num_layers,
        decoder_layers=num_layers,
        encoder_attention_heads=num_heads,
        decoder_attention_heads=num_heads,
        encoder_ffn_dim=ff_dim,
        decoder_ffn_dim=ff_dim,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
    )


def copy_layer(ours: Any, theirs: Any) -> None:
    """Copies weight and bias."""
    theirs.weight.data.copy_(ours.weight)
    theirs.bias.data.copy_(ours.bias)


def copy_attention(ours: MultiHeadAttention, theirs: Any) -> None:
    """Copies the projections; ours has those of keys and values in one matrix."""
    copy_layer(ours.q_proj, theirs.q_proj)
    copy_layer(ours.out_proj, theirs.out_proj)
    projections = (theirs.k_proj, theirs.v_proj)
    for layer, weight, bias in zip(projections, ours.kv_proj.weight.chunk(2), ours.kv_proj.bias.chunk(2), strict=True):
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)
