"""Translation compared to `transformers` and to textbook code, alternately in one process.

`python -m benchmarks.seq2seq --data FOLDER --checkpoint runs/seq2seq/NAME/checkpoints/best-*.ckpt`, a checkpoint of the
Transformer, writes `results/seq2seq-benchmark.json`:

1. beam search of size 5 on the test set, and `generate` of a Pegasus with the same weights, which makes it the same network:
   both exact (`early_stopping="never"`), in float32 and, where the CPU has it, in bfloat16; both with the early stopping
   that is the default of `generate`; and exact, with the batches of `generate` decoded on all cores like ours;
2. training on bucketed batches of equally many tokens, and on padded random batches;
3. a training step of the recurrent decoder, and of the loop over time that tutorials show.

Run it on an otherwise idle machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.pegasus import to_pegasus
from benchmarks.results import write_result
from benchmarks.timing import interleave, speedup, timed
from common.cli.command import OneLineParser, positive
from common.errors import UserError
from common.nn.allocator import keep_freed_memory
from common.nn.device import autocast_context, default_precision, device_name, has_bfloat16
from common.nn.parallel import parallel_map
from projects.seq2seq.batch_decoding import translate_ids
from projects.seq2seq.config import EOS, PAD, GenerationConfig, RecurrentConfig
from projects.seq2seq.constraints import max_lengths
from projects.seq2seq.data import Batch, TrainLoader, TranslationData, collate
from projects.seq2seq.inference import TranslationPipeline, load
from projects.seq2seq.losses import linear_cross_entropy
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.recurrent import RecurrentModel
from projects.seq2seq.transformer import TransformerModel

CPU = torch.device("cpu")
BATCH_SIZES = 100, 200, 400  # sentences decoded at once; the fastest of each side counts
DECODING: dict[str, dict[str, Any]] = {
    "decoding": {},
    "decoding_parallel": {"parallel": True},
    "decoding_bfloat16": {"precision": "bf16-mixed"},
    "decoding_early_stopping": {"early_stopping": True},
}


class Generate:
    """Beam search of size 5 by `generate` of `transformers`.

    Args:
        net: Network, copied into a Pegasus.
        length_limit: Ratio and extra tokens of the maximum length, see `max_lengths`.
        early_stopping: `generate`'s default heuristic; else exact search.
        precision: `bf16-mixed` for a Pegasus in bfloat16: `generate` is slower under autocast.
        parallel: Whether each core decodes a batch of its own.
    """

    def __init__(
        self, net: TransformerModel, length_limit: tuple[float, float], early_stopping: bool, precision: str, parallel: bool
    ) -> None:
        self.pegasus = to_pegasus(net)
        if precision == "bf16-mixed":
            self.pegasus.to(torch.bfloat16)
        self.length_limit, self.early_stopping, self.parallel = length_limit, early_stopping, parallel

    def __call__(self, sources: Sequence[list[int]], batch_size: int) -> list[list[int]]:
        """Target ids, EOS included, of each source."""
        translations: list[list[int]] = [[] for _ in sources]
        order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

        @torch.no_grad()
        def work(batches: Iterable[list[int]]) -> None:
            for batch in batches:
                ids = pad_sequence([torch.tensor([*sources[i], EOS]) for i in batch], batch_first=True, padding_value=PAD)
                found = self.pegasus.generate(
                    input_ids=ids,
                    attention_mask=(ids != PAD).long(),
                    num_beams=5,
                    length_penalty=1.0,
                    early_stopping=False if self.early_stopping else "never",
                    do_sample=False,
                    max_new_tokens=int(max_lengths(torch.tensor([ids.shape[1]]), self.length_limit)),
                )
                for i, row in zip(batch, found[:, 1:].tolist(), strict=True):
                    translations[i] = row[: row.index(EOS) + 1] if EOS in row else row

        if self.parallel:
            parallel_map(work, batches, CPU)
        else:
            work(batches)
        return translations


def decoding(
    pipeline: TranslationPipeline,
    sources: list[list[int]],
    repeats: int,
    early_stopping: bool = False,
    precision: str = "32-true",
    parallel: bool = False,
) -> dict[str, Any]:
    """Sentences per second of both at each of `BATCH_SIZES`, and the fraction of equal translations."""
    if not isinstance(pipeline.model, TransformerModel):
        raise UserError("--checkpoint: needs a Transformer")
    generate = Generate(pipeline.model, pipeline.length_limit, early_stopping, precision, parallel)
    search = GenerationConfig(num_beams=5, early_stopping="heuristic" if early_stopping else "never")
    translations: dict[str, list[list[int]]] = {}

    def ours(batch_size: int) -> None:
        options: dict[str, Any] = {"batch_size": batch_size, "length_limit": pipeline.length_limit, "precision": precision}
        found = translate_ids(pipeline.model, sources, search, CPU, **options)
        translations["ours"] = [hypotheses[0].tokens for hypotheses in found]

    def theirs(batch_size: int) -> None:
        translations["theirs"] = generate(sources, batch_size)

    sides = [timed(partial(side, size)) for side in (ours, theirs) for size in BATCH_SIZES]
    speeds = [len(sources) / statistics.median(seconds) for seconds in interleave(sides, repeats)]
    by_batch_size = [
        dict(zip(map(str, BATCH_SIZES), part, strict=True))
        for part in (speeds[: len(BATCH_SIZES)], speeds[len(BATCH_SIZES) :])
    ]
    same = sum(a == b for a, b in zip(translations["ours"], translations["theirs"], strict=True))
    return {
        "sentences": len(sources),
        "ours_sentences_per_second": by_batch_size[0],
        "generate_sentences_per_second": by_batch_size[1],
        "ratio": max(by_batch_size[0].values()) / max(by_batch_size[1].values()),
        "same_translations": same / len(sources),
    }


def every_nth(batches: Iterable[Batch], count: int) -> list[Batch]:
    """About `count` batches, evenly spaced over the epoch, so that short and long sentences are among them."""
    batches = list(batches)
    return batches[:: max(1, len(batches) // count)]


def bucketing(data: TranslationData, steps: int) -> dict[str, float]:
    """Target tokens per second in training, without padding: bucketed batches, and random ones of as many sentences."""
    torch.manual_seed(0)
    module = Seq2SeqModule(data.vocab_sizes).train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-4)
    loader = TrainLoader(data)
    bucketed = every_nth(loader, steps)
    source, target = data.train_ids(0)
    shuffled = torch.randperm(len(source)).split(round(len(source) / len(loader)))[: len(bucketed)]
    random = [collate(source, target, index, 1 / 4000) for index in shuffled]

    def count_tokens(batches: list[Batch]) -> int:
        return sum(int((batch.target[:, 1:] != PAD).sum()) for batch in batches)

    def padding(batches: list[Batch]) -> float:
        return 1 - count_tokens(batches) / sum(batch.target[:, 1:].numel() for batch in batches)

    def training(batches: list[Batch]) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                with autocast_context(default_precision("cpu"), CPU):
                    loss = module.cross_entropy(batch, label_smoothing=0.1)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        return run

    sides = bucketed, random
    measured = interleave([timed(training(batches)) for batches in sides], 2)
    ours, theirs = (count_tokens(side) / statistics.median(seconds) for side, seconds in zip(sides, measured, strict=True))
    return {
        "ours_tokens_per_second": ours,
        "random_tokens_per_second": theirs,
        "ratio": ours / theirs,
        "ours_padding": padding(bucketed),
        "random_padding": padding(random),
    }


class NaiveDecoder(nn.Module):
    """Recurrent decoder as in tutorials: embedding, attention and logits of each step inside the loop over time."""

    def __init__(self, vocab_size: int, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim, PAD)
        self.cell = nn.LSTMCell(2 * embed_dim, hidden_dim)
        self.key = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.attn_projection = nn.Linear(2 * hidden_dim, embed_dim)
        self.output_layer = nn.Linear(embed_dim, vocab_size)
        self.dropout = nn.Dropout(0.3)

    def forward(self, values: Tensor, mask: Tensor, init_hidden: Tensor, target: Tensor) -> Tensor:
        """Logits (batch, time, vocab_size) for encoder states (batch, source_time, hidden_dim)."""
        h, c = init_hidden, torch.zeros_like(init_hidden)
        attn_hidden = init_hidden.new_zeros(len(h), self.attn_projection.out_features)
        logits = []
        for step in range(target.shape[1]):
            embedded = self.dropout(self.embedding(target[:, step]))
            h, c = self.cell(torch.cat([embedded, attn_hidden], 1), (h, c))
            scores = torch.bmm(self.key(values), h.to(values.dtype)[:, :, None])[:, :, 0]  # (batch, source_time)
            weights = scores.masked_fill(~mask, -1e9).softmax(1)
            context = torch.bmm(weights.to(values.dtype)[:, None], values)[:, 0]
            attn_hidden = torch.tanh(self.attn_projection(torch.cat([h.to(context.dtype), context], 1)))
            logits.append(self.output_layer(self.dropout(attn_hidden)))
        return torch.stack(logits, 1)


def decoder_step(data: TranslationData, steps: int) -> dict[str, float]:
    """Milliseconds of forward and backward pass of both decoders, after the same encoder states."""
    torch.manual_seed(0)
    net = RecurrentModel(data.vocab_sizes, RecurrentConfig(), "all").train()
    naive = NaiveDecoder(data.vocab_sizes[1], net.target_embedding.embedding_dim, net.bridge.out_features).train()
    batches = every_nth(TrainLoader(data), steps)
    precision = default_precision("cpu")
    with torch.no_grad(), autocast_context(precision, CPU):
        memories = [net.encode(batch.source, batch.source_lengths) for batch in batches]

    def ours() -> None:
        for batch, memory in zip(batches, memories, strict=True):
            with autocast_context(precision, CPU):
                memory = memory._replace(keys=net.attention.key(memory.values))
                hidden = net.decode(memory, batch.target[:, :-1])
                labels = batch.target[:, 1:]
                real = labels != PAD
                weights = batch.weight[:, None].expand_as(labels)[real]
                output = net.output_layer
                loss = linear_cross_entropy(hidden[real], output.weight, output.bias, labels[real], weights, 0.1)
            loss.backward()
            net.zero_grad()

    def theirs() -> None:
        for batch, memory in zip(batches, memories, strict=True):
            with autocast_context(precision, CPU):
                logits = naive(memory.values, memory.mask, memory.init_hidden.float(), batch.target[:, :-1])
                labels = batch.target[:, 1:].flatten()
                loss = F.cross_entropy(logits.float().flatten(0, 1), labels, ignore_index=PAD, label_smoothing=0.1)
            loss.backward()
            naive.zero_grad()

    measured = interleave([timed(ours), timed(theirs)], 2)
    return {
        "ours_step_ms": 1000 * statistics.median(measured[0]) / len(batches),
        "naive_step_ms": 1000 * statistics.median(measured[1]) / len(batches),
        "ratio": speedup(*measured),
    }


def main() -> None:
    """Measures and writes the result."""
    parser = OneLineParser(description="Translation compared to transformers and to textbook code.")
    parser.add_argument("--data", required=True, help="Folder of Multi30k.")
    parser.add_argument("--checkpoint", required=True, type=Path, help="Checkpoint of the Transformer.")
    parser.add_argument("--repeats", type=positive, default=3, help="Times that each side decodes the test set.")
    parser.add_argument("--steps", type=positive, default=10, help="Training steps in a repeat.")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    pipeline = load(arguments.checkpoint)
    data = TranslationData(arguments.data, direction="-".join(pipeline.languages))
    data.setup("fit")
    sources = pipeline.encode(data.splits["test"].source)
    result = {
        "device": device_name(CPU),
        "data_source": data.source_label,
        "checkpoint": str(arguments.checkpoint),
        **{
            name: decoding(pipeline, sources, arguments.repeats, **options)
            for name, options in DECODING.items()
            if "precision" not in options or has_bfloat16("cpu")
        },
        "bucketing": bucketing(data, arguments.steps),
        "decoder_step": decoder_step(data, arguments.steps),
    }
    print(write_result("seq2seq-benchmark", result))


if __name__ == "__main__":
    main()
