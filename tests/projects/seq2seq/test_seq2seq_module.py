"""The module's loss, figures and schedules against what they are defined as."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer

from common.errors import UserError
from projects.seq2seq.data import TranslationData
from projects.seq2seq.evaluation import corpus_bleu, exact_match
from projects.seq2seq.inference import length_limits
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.networks import PAD
from projects.seq2seq.search import SearchOptions, beam_search
from projects.seq2seq.vocabulary import EOS, decode

TINY = {"width": 16, "hidden": 16, "dropout": 0.0}


@pytest.fixture(scope="module")
def data(pairs_folder) -> TranslationData:
    data = TranslationData(str(pairs_folder), "de-en", vocabulary_size=300, batch_tokens=400, eval_batch_size=17)
    data.setup("fit")
    return data


def trainer(**options) -> Trainer:
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return Trainer(**{"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0, **quiet, **options})


@pytest.mark.parametrize("network", ["recurrent", "transformer"])
def test_the_loss_is_the_mean_cross_entropy_of_the_target_tokens(data, network):
    module = Seq2SeqModule(data.vocabularies, network, label_smoothing=0.1, **TINY).eval()
    batch = next(iter(data.train_dataloader()))
    logits = module.net.output(module.net(batch.source, batch.source_lengths, batch.target[:, :-1]))
    wanted = batch.target[:, 1:]
    expected = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=PAD, label_smoothing=0.1)
    torch.testing.assert_close(module.compute_loss(batch), expected)


@pytest.mark.parametrize("network", ["recurrent", "transformer"])
def test_r_drop_reads_every_batch_twice_under_other_dropout(data, network):
    batch = next(iter(data.train_dataloader()))
    plain, twice = (
        Seq2SeqModule(data.vocabularies, network, r_drop=r_drop, **TINY | {"dropout": 0.3}) for r_drop in (0.0, 2.0)
    )
    twice.load_state_dict(plain.state_dict())
    # without dropout both passes are the same: the mean of their losses, and nothing between them
    torch.testing.assert_close(twice.eval().compute_loss(batch), plain.eval().compute_loss(batch))
    twice.train()
    torch.manual_seed(0)
    pair = twice.net(
        *(part.repeat(2, *[1] * (part.dim() - 1)) for part in (batch.source, batch.source_lengths, batch.target[:, :-1]))
    )
    first, second = twice.net.output(pair).log_softmax(-1).chunk(2)
    assert not torch.equal(first, second)
    wanted = batch.target[:, 1:]
    weights = batch.weight[:, None] * (wanted != PAD)
    likelihood = (first + second).gather(2, wanted[:, :, None])[:, :, 0] / 2
    smoothed = 0.9 * likelihood + 0.1 * (first + second).mean(2) / 2
    apart = ((first.exp() - second.exp()) * (first - second)).sum(2)  # KL one way and the other
    torch.manual_seed(0)
    torch.testing.assert_close(twice.compute_loss(batch), (weights * (apart / 2 - smoothed)).sum())


def test_validation_figures_are_those_of_the_whole_split(data):
    module = Seq2SeqModule(data.vocabularies, val_beam=3, **TINY)
    figures = trainer().validate(module, datamodule=data, verbose=False)[0]
    pairs, total, tokens, translations = data.splits["val"], 0.0, 0, []
    module.eval()
    for source, target in zip(pairs.source_ids, pairs.target_ids, strict=True):  # one by one, without padding
        ids, length = torch.tensor([[*source, EOS]]), torch.tensor([len(source) + 1])
        with torch.no_grad():
            given, wanted = torch.tensor([[1, *target]]), torch.tensor([*target, EOS])
            logits = module.net.output(module.net(ids, length, given))[0]
            total += F.cross_entropy(logits, wanted, reduction="sum").item()
            memory = module.net.encode(ids, length)
        tokens += len(wanted)
        found = beam_search(module.net, memory, SearchOptions(3), limits=length_limits(length))
        translations.append(decode(data.target_tokenizer, found[0][0].tokens))
    assert figures["val/loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert figures["val/perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert figures["val/bleu"] == pytest.approx(corpus_bleu(translations, pairs.target), abs=1e-4)
    assert figures["val/exact_match"] == pytest.approx(exact_match(translations, pairs.target))


def test_the_test_scores_every_sentence_once_and_notes_how(data):
    module = Seq2SeqModule(data.vocabularies, beam=2, **TINY)
    figures = trainer().test(module, datamodule=data, verbose=False)[0]
    assert sorted(module.translations) == list(range(31))
    empty = data.splits["test"].source.index("")
    assert module.translations[empty] == ""
    assert {"test/bleu", "test/bleu_lower", "test/bleu_tokenized", "test/chrf", "test/perplexity"} <= set(figures)
    assert (module.metadata["direction"], module.metadata["lowercase"]) == ("de-en", data.lowercase)
    assert "case:lc" in module.metadata["signatures"]["bleu_lower"]
    assert any(name.endswith("_words") for name in figures)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverse_sqrt"])
def test_schedules_rise_to_the_rate_and_fall_as_named(data, schedule):
    module = Seq2SeqModule(data.vocabularies, schedule=schedule, warmup=0.25, lr=0.5, **TINY)
    module.trainer = trainer(max_steps=40, max_epochs=-1)
    module.trainer.strategy.connect(module)
    parts = module.configure_optimizers()
    rates = []
    for _ in range(40):
        rates.append(parts["optimizer"].param_groups[0]["lr"])
        parts["lr_scheduler"]["scheduler"].step()
    assert rates[0] == pytest.approx(0.5 / 10)
    assert max(rates) == pytest.approx(0.5) and rates.index(max(rates)) in (9, 10)
    half = rates[25]  # half of the way down
    expected = {"linear": 0.25, "cosine": 0.25, "inverse_sqrt": 0.5 * (10 / 26) ** 0.5}[schedule]
    assert half == pytest.approx(expected, rel=1e-6)
    assert rates[39] == pytest.approx(
        {"linear": 0.5 / 30, "cosine": 0.5 * (1 + math.cos(math.pi * 29 / 30)) / 2}.get(schedule, 0.5 * 0.5)
    )


def test_teacher_forcing_goes_from_its_first_to_its_last_share(data, monkeypatch):
    module = Seq2SeqModule(data.vocabularies, teacher_forcing=(1.0, 0.5), **TINY)
    seen: list[float] = []
    loss = Seq2SeqModule.loss
    monkeypatch.setattr(
        Seq2SeqModule,
        "loss",
        lambda self, batch, *a, **o: seen.extend(o.values()) or loss(self, batch, *a, **o),
    )
    trainer(max_steps=5, max_epochs=-1, limit_val_batches=0).fit(module, datamodule=data)
    assert seen == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])


def test_a_checkpoint_holds_what_translation_needs(plain_run, data):
    last = max((plain_run / "checkpoints").glob("step-*.ckpt"))
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["languages"] == ["de", "en"]
    assert checkpoint["tokenizers"] == [data.source_tokenizer.to_str(), data.target_tokenizer.to_str()]


def test_the_loss_floor_is_the_least_that_smoothed_targets_allow():
    module = Seq2SeqModule((50, 40), tie="none", label_smoothing=0.2, **TINY)
    target = torch.full((40,), 0.2 / 40)
    target[3] += 0.8
    assert module.min_loss == pytest.approx(
        F.cross_entropy(target.log()[None], torch.tensor([3]), label_smoothing=0.2).item()
    )
    assert Seq2SeqModule((40, 40), label_smoothing=0.0, **TINY).min_loss == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"network": "bigram"}, "--model.network bigram"),
        ({"cell": "rnn"}, "--model.cell rnn"),
        ({"attention": "none"}, "--model.attention none"),
        ({"dropout": 1.0}, "--model.dropout 1.0"),
        ({"r_drop": -1.0}, "--model.r_drop -1.0"),
        ({"label_smoothing": -0.1}, "--model.label_smoothing -0.1"),
        ({"lr": 0.0}, "--model.lr is above 0"),
        ({"teacher_forcing": (1.0, 2.0)}, "--model.teacher_forcing"),
        ({"network": "transformer", "width": 18, "heads": 4}, "--model.width 18"),
        ({"network": "transformer", "width": 20, "heads": 4, "positions": "rotary"}, "--model.width 20"),
        ({"positions": "learned"}, "--model.positions learned"),
        ({"vocabularies": (40, 50)}, "--model.tie: only a joint vocabulary"),
        ({"beam": 0}, "beam 0"),
    ],
)
def test_bad_settings_are_named(options, line):
    with pytest.raises(UserError, match=line):
        Seq2SeqModule(**{"vocabularies": (40, 40), **options})
