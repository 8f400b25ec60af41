"""CTranslate2: a Transformer as a model of that engine, compared with torch in a process that has the engine alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.export.clean_process import run_clean
from common.export.graph import Written
from common.io.files import write_text_atomically
from projects.seq2seq.config import BOS, EOS
from projects.seq2seq.networks import Seq2SeqModel
from projects.seq2seq.tokenizer import SPECIAL_TOKENS
from projects.seq2seq.transformer import EncoderLayer, MultiHeadAttention, TransformerModel, sinusoidal_embedding

if TYPE_CHECKING:
    from projects.seq2seq.inference import TranslationPipeline

FOLDER, INT8_FOLDER = "ctranslate2", "ctranslate2-int8"
TOLERANCE = 1e-4  # of the largest difference between log probabilities of tokens
MIN_POSITIONS = 1024  # for which there are position embeddings, of a source and of a translation
RUN = """
import ctranslate2
translator = ctranslate2.Translator(sys.argv[1], device="cpu", intra_threads=1)
pairs = json.load(open(sys.argv[2], encoding="utf-8"))
result = [scored.log_probs for scored in translator.score_batch(pairs["sources"], pairs["targets"])]
"""


def check_network(net: nn.Module) -> TransformerModel:
    """The network. Raises UserError if CTranslate2 does not know it."""
    if not isinstance(net, TransformerModel):
        raise UserError("CTranslate2: it knows no recurrent encoder-decoder, only Transformers; add --weights_only")
    if net.rotary:
        raise UserError("CTranslate2: it knows no rotary positions in an encoder-decoder; add --weights_only")
    return net


def write_model(pipeline: TranslationPipeline, folder: Path, quantization: str | None = None) -> Path:
    """Writes the model in a folder of its own, with the tokens of both vocabularies; returns that folder."""
    net = check_network(pipeline.model)  # type: ignore[arg-type]
    ratio, extra = pipeline.length_limit
    positions = max(MIN_POSITIONS, pipeline.max_length + 1, int(ratio * (pipeline.max_length + 1) + extra) + 1)
    spec = new_spec(net, positions)
    spec.register_source_vocabulary(tokens_of(pipeline.source_tokenizer))
    spec.register_target_vocabulary(tokens_of(pipeline.target_tokenizer))
    spec.config.add_source_eos = True  # as in training
    spec.validate()
    spec.optimize(quantization=quantization)
    target = folder / (FOLDER if quantization is None else INT8_FOLDER)
    target.mkdir()
    spec.save(str(target))
    return target


def new_spec(net: TransformerModel, positions: int) -> Any:
    """Specification with the network's weights, for at most so many positions."""
    from ctranslate2.specs import TransformerSpec

    first = net.decoder_layers[0]
    spec = TransformerSpec.from_config(len(net.encoder), first.self_attn.num_heads, pre_norm=first.norm_first)
    # its own sinusoids have all sines before all cosines; the paper and this suite alternate them
    table = sinusoidal_embedding(positions, net.target_embedding.embedding_dim).numpy()
    spec.encoder.embeddings[0].weight = to_numpy(net.source_embedding.weight)
    spec.decoder.embeddings.weight = to_numpy(net.target_embedding.weight)
    for side, norm in ((spec.encoder, net.encoder_norm), (spec.decoder, net.decoder_norm)):
        side.scale_embeddings = True
        side.position_encodings.encodings = table
        if first.norm_first:
            set_affine(side.layer_norm, norm, "gamma", "beta")
    set_affine(spec.decoder.projection, net.output_layer)
    for target, encoder_layer in zip(spec.encoder.layer, cast(Sequence[EncoderLayer], net.encoder), strict=True):
        set_attention(target.self_attention, encoder_layer.self_attn, encoder_layer.norm1)
        set_feed_forward(target.ffn, encoder_layer.feed_forward, encoder_layer.norm2)
    for target, layer in zip(spec.decoder.layer, net.decoder_layers, strict=True):
        set_attention(target.self_attention, layer.self_attn, layer.norm1)
        set_attention(target.attention, layer.cross_attn, layer.norm2, is_self=False)
        set_feed_forward(target.ffn, layer.feed_forward, layer.norm3)
    return spec


def set_affine(target: Any, layer: Any, weight: str = "weight", bias: str = "bias") -> None:
    """Sets weight and bias of a linear layer or, by its own names, of a layer normalization."""
    setattr(target, weight, to_numpy(layer.weight))
    setattr(target, bias, to_numpy(layer.bias))


def set_attention(target: Any, attention: MultiHeadAttention, norm: nn.Module, is_self: bool = True) -> None:
    """Sets an attention's weights: of queries, keys and values in one matrix, or those of the queries apart."""
    set_affine(target.layer_norm, norm, "gamma", "beta")
    q, kv = attention.q_proj, attention.kv_proj
    if is_self:
        target.linear[0].weight = to_numpy(torch.cat([q.weight, kv.weight]))
        target.linear[0].bias = to_numpy(torch.cat([q.bias, kv.bias]))
    else:
        set_affine(target.linear[0], q)
        set_affine(target.linear[1], kv)
    set_affine(target.linear[-1], attention.out_proj)


def set_feed_forward(target: Any, feed_forward: nn.Module, norm: nn.Module) -> None:
    """Sets the weights of a feed-forward network."""
    set_affine(target.layer_norm, norm, "gamma", "beta")
    linear1, _, linear2 = feed_forward.children()
    set_affine(target.linear_0, linear1)
    set_affine(target.linear_1, linear2)


def to_numpy(tensor: Tensor) -> Any:
    """Values of a tensor, as float32; a copy, as quantization scales them in place."""
    return tensor.detach().float().cpu().numpy().copy()


def tokens_of(tokenizer: Any) -> list[str]:
    """Tokens of a vocabulary, in the order of their ids."""
    return [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]


def write_ctranslate2(pipeline: TranslationPipeline, folder: Path) -> Written:
    """Writes the model in float32. Raises UserError if its log probabilities are not torch's."""
    difference = largest_difference(pipeline, write_model(pipeline, folder))
    if not difference <= TOLERANCE:
        raise UserError(f"CTranslate2: its log probabilities are {difference:.2g} off torch's; not written")
    check = f"largest difference of a token's log probability to torch: {difference:.2g}, by ctranslate2 without torch"
    return Written(FOLDER, usage(pipeline, FOLDER), check, difference)


def largest_difference(pipeline: TranslationPipeline, folder: Path) -> float:
    """Largest difference of a token's log probability, over random pairs of sentences of many lengths, EOS included."""
    net = check_network(pipeline.model)  # type: ignore[arg-type]
    vocabularies = [tokens_of(tokenizer) for tokenizer in (pipeline.source_tokenizer, pipeline.target_tokenizer)]
    rng, first = torch.Generator().manual_seed(0), len(SPECIAL_TOKENS)
    lengths = ((1, 9), (3, 2), (8, 8), (17, 30), (40, 25))
    pairs = [
        [
            torch.randint(first, len(tokens), (n,), generator=rng).tolist()
            for n, tokens in zip(pair, vocabularies, strict=True)
        ]
        for pair in lengths
    ]
    sides = [[[v[i] for i in pair[side]] for pair in pairs] for side, v in enumerate(vocabularies)]
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "pairs.json"
        write_text_atomically(file, json.dumps({"sources": sides[0], "targets": sides[1]}))
        found = run_clean(RUN, folder, file)
    expected = [log_probabilities(net, source, target) for source, target in pairs]
    differences = [(torch.tensor(a) - b).abs().max() for a, b in zip(found, expected, strict=True)]
    return float(torch.stack(differences).max())


@torch.no_grad()
def log_probabilities(net: Seq2SeqModel, source: list[int], target: list[int]) -> Tensor:
    """Log probability (tokens,) of each token of a translation, EOS included."""
    ids, length = torch.tensor([[*source, EOS]]), torch.tensor([len(source) + 1])
    hidden = net(ids, length, torch.tensor([[BOS, *target]]))  # (1, tokens, embed_dim)
    labels = torch.tensor([*target, EOS])
    return net.output_layer(hidden)[0].log_softmax(-1).gather(1, labels[:, None]).squeeze(1)


def usage(pipeline: TranslationPipeline, name: str) -> str:
    """Lines that translate with the model."""
    generation = pipeline.generation
    return (
        "import ctranslate2\nfrom tokenizers import Tokenizer\n\n"
        f'translator = ctranslate2.Translator("{name}")\n'
        'source, target = (Tokenizer.from_file(f"{side}-tokenizer.json") for side in ("source", "target"))\n'
        f"tokens = [source.encode(sentence).tokens[:{pipeline.max_length}] for sentence in sentences]\n"
        f"options = dict(beam_size={generation.num_beams}, length_penalty={generation.length_penalty:g}, "
        f"max_decoding_length={generation.max_length})\n"
        "best = [found.hypotheses[0] for found in translator.translate_batch(tokens, **options)]\n"
        "translations = [target.decode([target.token_to_id(token) for token in tokens]).strip() for tokens in best]"
    )
