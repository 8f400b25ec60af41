"""Our translators beside what people use instead; both sides in turn, in one process.

`python -m benchmarks.seq2seq --data FOLDER --checkpoint runs/seq2seq/NAME/checkpoints/best-*.ckpt` measures, and
writes `results/seq2seq-benchmark.json`:

1. beam-5 decoding of the test set against `transformers`' `generate` of a Pegasus with the checkpoint's own weights, which
   makes it the same network: both going on until no better translation can come, in float32 and, where the processor has
   it, in bfloat16, and both stopping where `generate` does by default; and once more with the batches of `generate` dealt
   out to the cores as ours;
2. training on bucketed batches of equal tokens against padded random batches;
3. a training step of the recurrent decoder against the loop over steps that tutorials show.

The checkpoint is one of the Transformer. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.results import write_result
from benchmarks.timing import interleave, ratio, seconds
from common.errors import UserError
from common.nn.device import default_precision, device_name, has_bfloat16, keep_freed_memory, parallel_map
from projects.seq2seq.data import Batch, TokenBatchLoader, TranslationData, collate
from projects.seq2seq.inference import length_limits, translate_ids
from projects.seq2seq.losses import linear_cross_entropy
from projects.seq2seq.networks import PAD, RecurrentTranslator, TransformerTranslator, sinusoids
from projects.seq2seq.search import SearchOptions
from projects.seq2seq.translate import load_translator
from projects.seq2seq.vocabulary import BOS, EOS

BATCHES = 100, 200, 400  # sentences decoded at once; each side is measured at the one that suits it best
DECODING: dict[str, dict[str, Any]] = {
    "decoding": {},
    "decoding_shared": {"share": True},
    "decoding_bfloat16": {"precision": "bf16-mixed"},
    "decoding_early_stop": {"early_stop": True},
}


def as_pegasus(net: TransformerTranslator) -> Any:
    """A `transformers` model that computes what `net` does: Pegasus has its norms and its sinusoids in the same places."""
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    if isinstance(net.encoder_norm, nn.Identity) or net.source_embedding is not net.target_embedding or net.rotary:
        raise UserError("--checkpoint: the benchmark needs the Transformer with pre_norm, tie all and sinusoidal positions")
    vocabulary, width = net.target_embedding.weight.shape
    first = net.decoder_layers[0]
    shape = {"layers": len(net.decoder_layers), "attention_heads": first.attention.heads}
    config = PegasusConfig(
        vocab_size=vocabulary,
        d_model=width,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in shape.items()},
        encoder_ffn_dim=net.encoder[0].feed_forward[0].out_features,  # type: ignore[union-attr, index]
        decoder_ffn_dim=first.feed_forward[0].out_features,
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=512,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
    )
    twin = PegasusForConditionalGeneration(config).eval()
    model = twin.model

    def copy(ours: Any, theirs: Any) -> None:
        theirs.weight.data.copy_(ours.weight)
        theirs.bias.data.copy_(ours.bias)

    def copy_attention(ours: Any, theirs: Any) -> None:
        copy(ours.query, theirs.q_proj)
        copy(ours.out, theirs.out_proj)
        for target, weight, bias in zip(
            (theirs.k_proj, theirs.v_proj), ours.key_value.weight.chunk(2), ours.key_value.bias.chunk(2), strict=True
        ):
            target.weight.data.copy_(weight)
            target.bias.data.copy_(bias)

    with torch.no_grad():
        model.shared.weight.copy_(net.target_embedding.weight)
        twin.final_logits_bias.copy_(net.output.bias)
        for side in (model.encoder, model.decoder):
            side.embed_positions.weight.copy_(sinusoids(512, width))
    copy(net.encoder_norm, model.encoder.layer_norm)
    copy(net.decoder_norm, model.decoder.layer_norm)
    pairs = [*zip(net.encoder, model.encoder.layers, strict=True), *zip(net.decoder, model.decoder.layers, strict=True)]
    for ours, theirs in pairs:
        copy_attention(ours.attention, theirs.self_attn)
        copy(ours.around_attention.norm, theirs.self_attn_layer_norm)
        if hasattr(theirs, "encoder_attn"):
            copy_attention(ours.cross_attention, theirs.encoder_attn)
            copy(ours.around_cross_attention.norm, theirs.encoder_attn_layer_norm)
        copy(ours.feed_forward[0], theirs.fc1)
        copy(ours.feed_forward[2], theirs.fc2)
        copy(ours.around_feed_forward.norm, theirs.final_layer_norm)
    return twin


def decoding(
    net: TransformerTranslator,
    sources: list[list[int]],
    limit: tuple[float, float],
    rounds: int,
    early_stop: bool = False,
    precision: str = "32-true",
    share: bool = False,
) -> dict[str, Any]:
    """Sentences a second of both, with the same weights, beam and rule to stop; and how many translations are the same.

    Each side is measured with every one of `BATCHES`, and its fastest counts. With `share` each core has a batch of its own
    on both sides; else on ours alone.
    """
    twin = as_pegasus(net)
    if precision == "bf16-mixed":
        twin.to(torch.bfloat16)  # how `generate` is fastest; under autocast it is slower
    options = SearchOptions(beam=5, length_penalty=1.0, max_length=128, early_stop=early_stop)
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    results: dict[str, list[list[int]]] = {}
    device = torch.device("cpu")

    def ours(batch_size: int) -> None:
        found = translate_ids(net, sources, options, device, batch_size=batch_size, limit=limit, precision=precision)
        results["ours"] = [hypotheses[0].tokens for hypotheses in found]

    @torch.no_grad()
    def generate(batches: Iterable[list[int]]) -> None:
        for batch in batches:
            ids = pad_sequence([torch.tensor([*sources[i], EOS]) for i in batch], batch_first=True, padding_value=PAD)
            found = twin.generate(
                input_ids=ids,
                attention_mask=(ids != PAD).long(),
                num_beams=5,
                length_penalty=1.0,
                early_stopping=False if early_stop else "never",
                do_sample=False,
                max_new_tokens=int(length_limits(torch.tensor([ids.shape[1]]), limit)),
            )
            for i, row in zip(batch, found[:, 1:].tolist(), strict=True):
                results["theirs"][i] = row[: row.index(EOS) + 1] if EOS in row else row

    def theirs(batch_size: int) -> None:
        results["theirs"] = [[] for _ in sources]
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if share:
            parallel_map(generate, batches, device)
        else:
            generate(batches)

    sides = [seconds(partial(side, size)) for side in (ours, theirs) for size in BATCHES]
    rates = [len(sources) / statistics.median(measured) for measured in interleave(sides, rounds)]
    by_batch = [dict(zip(map(str, BATCHES), part, strict=True)) for part in (rates[: len(BATCHES)], rates[len(BATCHES) :])]
    same = sum(a == b for a, b in zip(results["ours"], results["theirs"], strict=True))
    return {
        "sentences": len(sources),
        "ours_sentences_per_second": by_batch[0],
        "generate_sentences_per_second": by_batch[1],
        "ratio": max(by_batch[0].values()) / max(by_batch[1].values()),
        "same_translations": same / len(sources),
    }


def train_step(net: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """A step as the module makes it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=default_precision("cpu") == "bf16-mixed"):
        given, wanted = batch.target[:, :-1], batch.target[:, 1:]
        hidden = net(batch.source, batch.source_lengths, given)
        real = wanted != PAD
        weights = batch.weight[:, None].expand_as(wanted)[real]
        output: Any = net.output
        loss = linear_cross_entropy(hidden[real], output.weight, output.bias, wanted[real], weights, 0.1)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def bucketing(data: TranslationData, steps: int) -> dict[str, float]:
    """Real tokens a second of training on our batches, and on random ones of as many sentences, padded to the longest."""
    torch.manual_seed(0)
    net = RecurrentTranslator(data.vocabularies).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    bucketed = list(TokenBatchLoader(data))
    step = max(1, len(bucketed) // steps)  # spread over the epoch, so that short and long sentences have their share
    bucketed = bucketed[::step]
    source, target = data.train_ids(0)
    sentences = round(len(source) / len(TokenBatchLoader(data)))
    shuffled = torch.randperm(len(source)).split(sentences)[: len(bucketed)]
    random = [collate(source, target, index, 1 / 4000) for index in shuffled]

    def tokens(batches: list[Batch]) -> int:
        return sum(int((batch.target[:, 1:] != PAD).sum()) for batch in batches)

    def padding(batches: list[Batch]) -> float:
        return 1 - tokens(batches) / sum(batch.target[:, 1:].numel() for batch in batches)

    def over(batches: list[Batch]) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                train_step(net, optimizer, batch)

        return run

    measured = interleave([seconds(over(bucketed)), seconds(over(random))], 2)
    ours, theirs = (tokens(batches) / statistics.median(s) for batches, s in zip((bucketed, random), measured, strict=True))
    return {
        "ours_tokens_per_second": ours,
        "random_tokens_per_second": theirs,
        "ratio": ours / theirs,
        "ours_padding": padding(bucketed),
        "random_padding": padding(random),
    }


class NaiveDecoder(nn.Module):
    """The recurrent decoder as tutorials write it: everything for one step, inside the loop, logits and all."""

    def __init__(self, vocabulary: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, PAD)
        self.cell = nn.LSTMCell(2 * width, hidden)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.readout = nn.Linear(2 * hidden, width)
        self.output = nn.Linear(width, vocabulary)
        self.dropout = nn.Dropout(0.3)

    def forward(self, values: Tensor, mask: Tensor, first: Tensor, target: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary) for encoder states (batch, source_time, hidden)."""
        h, c = first, torch.zeros_like(first)
        readout = first.new_zeros(len(first), self.readout.out_features)
        logits = []
        for step in range(target.shape[1]):
            embedded = self.dropout(self.embedding(target[:, step]))
            h, c = self.cell(torch.cat([embedded, readout], 1), (h, c))
            scores = torch.bmm(self.key(values), h.to(values.dtype)[:, :, None])[:, :, 0]  # (batch, source_time)
            weights = scores.masked_fill(~mask, -1e9).softmax(1)
            context = torch.bmm(weights.to(values.dtype)[:, None], values)[:, 0]
            readout = torch.tanh(self.readout(torch.cat([h.to(context.dtype), context], 1)))
            logits.append(self.output(self.dropout(readout)))
        return torch.stack(logits, 1)


def decoder_step(data: TranslationData, steps: int) -> dict[str, float]:
    """Seconds of forward and backward of both decoders, behind the same encoder states."""
    torch.manual_seed(0)
    net = RecurrentTranslator(data.vocabularies).train()
    naive = NaiveDecoder(data.vocabularies[1], 256, 512).train()
    batches = list(TokenBatchLoader(data))
    batches = batches[:: max(1, len(batches) // steps)]
    bf16 = default_precision("cpu") == "bf16-mixed"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        memories = [net.encode(batch.source, batch.source_lengths) for batch in batches]

    def ours() -> None:
        for batch, memory in zip(batches, memories, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                memory = memory._replace(keys=net.attention.key(memory.values))
                hidden = net.decode(memory, batch.target[:, :-1])
                wanted = batch.target[:, 1:]
                real = wanted != PAD
                weights = batch.weight[:, None].expand_as(wanted)[real]
                loss = linear_cross_entropy(hidden[real], net.output.weight, net.output.bias, wanted[real], weights, 0.1)
            loss.backward()
            net.zero_grad()

    def theirs() -> None:
        for batch, memory in zip(batches, memories, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = naive(memory.values, memory.mask, memory.first.float(), batch.target[:, :-1])
                loss = F.cross_entropy(
                    logits.float().flatten(0, 1), batch.target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=0.1
                )
            loss.backward()
            naive.zero_grad()

    measured = interleave([seconds(ours), seconds(theirs)], 2)
    return {
        "ours_step_ms": 1000 * statistics.median(measured[0]) / len(batches),
        "naive_step_ms": 1000 * statistics.median(measured[1]) / len(batches),
        "ratio": ratio(*measured),
    }


def main() -> None:
    """Measures everything and writes the result."""
    parser = argparse.ArgumentParser(description="Measure our translators beside what people use instead.")
    parser.add_argument("--data", required=True, help="folder of Multi30k")
    parser.add_argument("--checkpoint", required=True, type=Path, help="of the Transformer")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side decodes the test set")
    parser.add_argument("--steps", type=int, default=10, help="training steps in a round")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device("cpu")
    translator = load_translator([arguments.checkpoint], False, device)
    assert isinstance(translator.net, TransformerTranslator), "--checkpoint has to be one of the Transformer"
    data = TranslationData(arguments.data, direction="-".join(translator.languages))
    data.setup("fit")
    sources = [encoding.ids for encoding in translator.source_tokenizer.encode_batch(data.splits["test"].source)]
    figures = {
        "device": device_name(device),
        "data_source": data.source_label,
        "checkpoint": str(arguments.checkpoint),
        **{
            name: decoding(translator.net, sources, data.length_limit, arguments.rounds, **options)
            for name, options in DECODING.items()
            if "precision" not in options or has_bfloat16("cpu")
        },
        "bucketing": bucketing(data, arguments.steps),
        "decoder_step": decoder_step(data, arguments.steps),
    }
    print(write_result("seq2seq-benchmark", figures))


if __name__ == "__main__":
    main()
