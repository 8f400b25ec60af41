"""The module's loss, metrics and schedules against their definitions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import sacrebleu
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer

from common.errors import UserError
from projects.seq2seq import module as module_file
from projects.seq2seq.batch_decoding import translate_ids
from projects.seq2seq.config import EOS, PAD, DecodingConfig, GenerationConfig, RecurrentConfig, TransformerConfig
from projects.seq2seq.constraints import LENGTH_LIMIT, max_lengths
from projects.seq2seq.data import TranslationData
from projects.seq2seq.decoding import DecodingInputs, beam_search
from projects.seq2seq.metrics import bleu_lc, exact_match
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.tokenizer import decode


def small(vocab_sizes, dropout=0.0, teacher_forcing=(1.0, 1.0), **options) -> Seq2SeqModule:
    """A module with small networks of either kind."""
    recurrent = RecurrentConfig(16, 16, dropout=dropout, teacher_forcing=teacher_forcing)
    transformer = TransformerConfig(16, dropout=dropout)
    return Seq2SeqModule(vocab_sizes, recurrent=recurrent, transformer=transformer, **options)


@pytest.fixture(scope="module")
def data(pairs_folder) -> TranslationData:
    options = {"vocab_size": 300, "max_tokens": 400, "eval_batch_size": 17, "lowercase": "none"}
    data = TranslationData(str(pairs_folder), "de-en", **options)
    data.setup("fit")
    return data


def trainer(**options) -> Trainer:
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return Trainer(**{"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0, **quiet, **options})


@pytest.mark.parametrize("network", ["recurrent", "transformer"])
def test_the_loss_is_the_mean_cross_entropy_of_the_target_tokens(data, network):
    module = small(data.vocab_sizes, network=network, label_smoothing=0.1).eval()
    batch = next(iter(data.train_dataloader()))
    logits = module.net.output_layer(module.net(batch.source, batch.source_lengths, batch.target[:, :-1]))
    labels = batch.target[:, 1:]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD, label_smoothing=0.1)
    torch.testing.assert_close(module.compute_loss(batch), expected)


@pytest.mark.parametrize("limit", [1.0, 5])
def test_accumulated_gradients_are_those_of_the_mean_over_all_their_tokens(data, limit):
    steps: list[int] = []

    class Checked(Seq2SeqModule):
        batches = ()

        def training_step(self, batch, batch_idx):
            self.batches = (*self.batches, batch)
            return super().training_step(batch, batch_idx)

        def on_before_optimizer_step(self, optimizer):
            losses, tokens = 0.0, 0
            for batch in self.batches:
                hidden = self.net(batch.source, batch.source_lengths, batch.target[:, :-1])
                labels = batch.target[:, 1:].flatten()
                logits = self.net.output_layer(hidden).flatten(0, 1)
                losses += F.cross_entropy(logits, labels, ignore_index=PAD, reduction="sum")
                tokens += int((labels != PAD).sum())
                if batch is self.batches[-1]:  # what was logged is this batch's own mean
                    mean = F.cross_entropy(logits, labels, ignore_index=PAD)
                    torch.testing.assert_close(self.trainer.callback_metrics["train/loss"], mean.detach())
            parameters = list(self.net.parameters())
            for parameter, grad in zip(parameters, torch.autograd.grad(losses / tokens, parameters), strict=True):
                torch.testing.assert_close(parameter.grad, grad, rtol=1e-3, atol=1e-6)
            steps.append(len(self.batches))
            self.batches = ()

    module = Checked(data.vocab_sizes, recurrent=RecurrentConfig(16, 16, dropout=0.0), label_smoothing=0.0)
    options = {"accumulate_grad_batches": 3, "limit_train_batches": limit, "limit_val_batches": 0}
    trainer(**options).fit(module, datamodule=data)
    assert steps[0] == 3 and steps[-1] < 3, "a poor test: no window is shorter than the others"


@pytest.mark.parametrize("network", ["recurrent", "transformer"])
def test_r_drop_reads_every_batch_twice_under_other_dropout(data, network):
    batch = next(iter(data.train_dataloader()))
    plain, twice = (small(data.vocab_sizes, network=network, r_drop=r_drop, dropout=0.3) for r_drop in (0.0, 2.0))
    twice.load_state_dict(plain.state_dict())
    # without dropout both passes are the same: the mean of their losses, and nothing between them
    torch.testing.assert_close(twice.eval().compute_loss(batch), plain.eval().compute_loss(batch))
    twice.train()
    torch.manual_seed(0)
    pair = twice.net(
        *(part.repeat(2, *[1] * (part.dim() - 1)) for part in (batch.source, batch.source_lengths, batch.target[:, :-1]))
    )
    first, second = twice.net.output_layer(pair).log_softmax(-1).chunk(2)
    assert not torch.equal(first, second)
    labels = batch.target[:, 1:]
    weights = batch.weight[:, None] * (labels != PAD)
    likelihood = (first + second).gather(2, labels[:, :, None])[:, :, 0] / 2
    smoothed = 0.9 * likelihood + 0.1 * (first + second).mean(2) / 2
    kl = ((first.exp() - second.exp()) * (first - second)).sum(2)  # KL one way and the other
    torch.manual_seed(0)
    torch.testing.assert_close(twice.compute_loss(batch), (weights * (kl / 2 - smoothed)).sum())


def test_validation_metrics_are_those_of_the_whole_split(data):
    module = small(data.vocab_sizes, decoding=DecodingConfig(max_length=16))
    metrics = trainer().validate(module, datamodule=data, verbose=False)[0]
    pairs, total, tokens, translations = data.splits["val"], 0.0, 0, []
    module.eval()
    for source, target in zip(pairs.source_ids, pairs.target_ids, strict=True):  # one by one, without padding
        ids, length = torch.tensor([[*source, EOS]]), torch.tensor([len(source) + 1])
        with torch.no_grad():
            inputs, labels = torch.tensor([[1, *target]]), torch.tensor([*target, EOS])
            logits = module.net.output_layer(module.net(ids, length, inputs))[0]
            total += F.cross_entropy(logits, labels, reduction="sum").item()
            memory = module.net.encode(ids, length)
        tokens += len(labels)
        found = beam_search(
            module.net, memory, GenerationConfig(num_beams=1, max_length=16), DecodingInputs(max_lengths(length))
        )
        translations.append(decode(data.tokenizers[1], found[0][0].tokens))
    assert metrics["val/loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert metrics["val/perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)
    assert metrics["val/bleu_greedy_lc"] == pytest.approx(bleu_lc(translations, pairs.target), abs=1e-4)
    assert metrics["val/exact_match_greedy"] == pytest.approx(exact_match(translations, pairs.target))


def test_scores_of_a_network_that_translates_are_those_of_sacrebleu(data, monkeypatch):
    """Some translations are right, others lack words; those of an untrained network score 0 by any metric."""
    targets = {
        tuple(source): target
        for pairs in (data.splits["val"], data.splits["test"])
        for source, target in zip(pairs.source_ids, pairs.target_ids, strict=True)
    }

    def translate(net, sources, *args, **options):
        words = [targets[tuple(ids)] for ids in sources]
        return [[SimpleNamespace(tokens=ids if i % 3 else ids[:-4])] for i, ids in enumerate(words)]

    monkeypatch.setattr(module_file, "translate_ids", translate)
    module, runner = small(data.vocab_sizes), trainer()

    def evaluated(split):
        run = runner.validate if split == "val" else runner.test
        (metrics,) = run(module, datamodule=data, verbose=False)
        references = data.splits[split].target
        return metrics, [module.translations[i] for i in range(len(references))], references

    metrics, translations, references = evaluated("val")
    bleu = sacrebleu.corpus_bleu(translations, [references], lowercase=True).score
    exact = sum(map(str.__eq__, translations, references)) / len(references)
    assert 50 < bleu < 95 and 0.5 < exact < 0.8
    assert metrics["val/bleu_greedy_lc"] == pytest.approx(bleu, rel=1e-5)
    assert metrics["val/exact_match_greedy"] == pytest.approx(exact)

    metrics, translations, references = evaluated("test")
    assert metrics["test/bleu"] == pytest.approx(sacrebleu.corpus_bleu(translations, [references]).score, rel=1e-5)
    assert metrics["test/chrf"] == pytest.approx(sacrebleu.corpus_chrf(translations, [references]).score, rel=1e-5)
    assert metrics["test/exact_match"] == pytest.approx(sum(map(str.__eq__, translations, references)) / 31)
    short = [i for i, line in enumerate(references) if len(line.split()) <= 8]
    some = [translations[i] for i in short], [[references[i] for i in short]]
    expected = sacrebleu.corpus_bleu(*some, lowercase=True).score
    assert 0 < len(short) < 31 and metrics["test/bleu_lc_1-8_words"] == pytest.approx(expected, rel=1e-5)


def test_the_test_scores_every_sentence_once_and_records_the_protocol(data):
    module = small(data.vocab_sizes, decoding=DecodingConfig(num_beams=2, max_length=16))
    metrics = trainer().test(module, datamodule=data, verbose=False)[0]
    assert sorted(module.translations) == list(range(31))
    empty = data.splits["test"].source.index("")
    assert module.translations[empty] == ""
    assert {"test/bleu", "test/bleu_lc", "test/bleu_moses_lc", "test/chrf", "test/perplexity"} <= set(metrics)
    assert (module.metadata["direction"], module.metadata["lowercase"]) == ("de-en", data.lowercase)
    assert "case:lc" in module.metadata["signatures"]["bleu_lc"]
    assert any(name.endswith("_words") for name in metrics)


def test_validation_is_greedy_and_the_test_a_beam_search_both_as_long_as_the_data_allow(data, monkeypatch):
    calls: list[tuple[GenerationConfig, tuple[float, float]]] = []

    def recorded(net, sources, generation, *arguments, length_limit, **options):
        calls.append((generation, length_limit))
        return translate_ids(net, sources, generation, *arguments, length_limit=length_limit, **options)

    monkeypatch.setattr("projects.seq2seq.module.translate_ids", recorded)
    module = small(data.vocab_sizes, decoding=DecodingConfig(num_beams=3, length_penalty=0.5, max_length=16))
    for evaluate, beams in ((trainer().validate, 1), (trainer().test, 3)):
        evaluate(module, datamodule=data, verbose=False)
        assert set(calls) == {(GenerationConfig(beams, 0.5, 16), data.length_limit)}
        calls.clear()
    assert data.length_limit != LENGTH_LIMIT


def test_perfect_translations_into_chinese_have_the_highest_scores(data, monkeypatch):
    class Perfect(Seq2SeqModule):
        def translate(self, batch, split, generation):
            self.translations |= dict.fromkeys(batch.pair_index.tolist(), "两只狗在雪地里玩")

    for split in ("val", "test"):
        monkeypatch.setattr(data.splits[split], "target", ["两只狗在雪地里玩"] * len(data.splits[split]))
    monkeypatch.setattr(data, "languages", ("de", "zh"))
    module = Perfect(data.vocab_sizes)
    assert trainer().validate(module, datamodule=data, verbose=False)[0]["val/bleu_greedy_lc"] == pytest.approx(100)
    metrics = trainer().test(module, datamodule=data, verbose=False)[0]
    assert metrics["test/bleu"] == metrics["test/bleu_lc_1-16_characters"] == pytest.approx(100)
    assert "tok:zh" in module.metadata["signatures"]["bleu"]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverse_sqrt"])
def test_learning_rate_schedules_warm_up_and_decay(data, schedule):
    module = small(data.vocab_sizes, schedule=schedule, warmup=0.25, lr=0.5)
    module.trainer = trainer(max_steps=40, max_epochs=-1)
    module.trainer.strategy.connect(module)
    parts = module.configure_optimizers()
    learning_rates = []
    for _ in range(40):
        learning_rates.append(parts["optimizer"].param_groups[0]["lr"])
        parts["lr_scheduler"]["scheduler"].step()
    assert learning_rates[0] == pytest.approx(0.5 / 10)
    assert max(learning_rates) == pytest.approx(0.5) and learning_rates.index(max(learning_rates)) in (9, 10)
    half = learning_rates[25]  # half of the way down
    expected = {"linear": 0.25, "cosine": 0.25, "inverse_sqrt": 0.5 * (10 / 26) ** 0.5}[schedule]
    assert half == pytest.approx(expected, rel=1e-6)
    assert learning_rates[39] == pytest.approx(
        {"linear": 0.5 / 30, "cosine": 0.5 * (1 + math.cos(math.pi * 29 / 30)) / 2}.get(schedule, 0.5 * 0.5)
    )


def test_the_teacher_forcing_ratio_goes_from_its_first_to_its_last_value(data):
    ratios: list[float] = []

    class Recorded(Seq2SeqModule):
        def teacher_forcing_ratio(self) -> float:
            ratios.append(super().teacher_forcing_ratio())
            return ratios[-1]

    module = Recorded(data.vocab_sizes, recurrent=RecurrentConfig(16, 16, teacher_forcing=(1.0, 0.5)))
    trainer(max_steps=5, max_epochs=-1, limit_val_batches=0).fit(module, datamodule=data)
    assert ratios == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])


def test_a_checkpoint_holds_what_translation_needs(plain_run, data):
    last = max((plain_run / "checkpoints").glob("step-*.ckpt"))
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["languages"] == ["de", "en"]
    assert checkpoint["tokenizers"] == [data.tokenizers[0].to_str(), data.tokenizers[1].to_str()]


def test_min_loss_is_the_least_that_smoothed_targets_allow():
    module = small((50, 40), tie_word_embeddings="none", label_smoothing=0.2)
    target = torch.full((40,), 0.2 / 40)
    target[3] += 0.8
    assert module.min_loss == pytest.approx(
        F.cross_entropy(target.log()[None], torch.tensor([3]), label_smoothing=0.2).item()
    )
    assert small((40, 40), label_smoothing=0.0).min_loss == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"network": "recurrent", "recurrent": RecurrentConfig(hidden_dim=129)},
            "--model.recurrent.hidden_dim 129: use an",
        ),
        ({"transformer": TransformerConfig(18, num_heads=4)}, "--model.transformer.d_model 18"),
        ({"transformer": TransformerConfig(20, num_heads=4, position_embedding="rotary")}, "d_model 20: rotary"),
        ({"transformer": TransformerConfig(129, num_heads=4)}, "--model.transformer.d_model 129: choose an even multiple"),
        ({"network": "recurrent", "recurrent": RecurrentConfig(16, 17)}, "--model.recurrent.hidden_dim 17: use an even"),
        ({"network": "recurrent", "recurrent": RecurrentConfig(16, 1)}, "--model.recurrent.hidden_dim 1: use an even"),
        ({"vocab_sizes": (40, 50)}, "--model.tie_word_embeddings all: needs a joint vocabulary"),
    ],
)
def test_options_that_do_not_fit_together_are_named(options, line):
    with pytest.raises(UserError, match=line):
        Seq2SeqModule(**{"vocab_sizes": (40, 40), "network": "transformer", **options})
