"""Export: CTranslate2 and the folder translate as the checkpoint does; what the engine does not know is one line."""

from __future__ import annotations

import json

import pytest
import torch

from commands import CPU, same
from common.cli.main import main as train
from projects.seq2seq import export
from projects.seq2seq.config import BOS, EOS, PAD, GenerationConfig
from projects.seq2seq.ctranslate2_model import largest_difference, tokens_of, write_model
from projects.seq2seq.data import TranslationData
from projects.seq2seq.inference import load
from projects.seq2seq.metrics import paired_bleu
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.synthetic import make_pairs
from projects.seq2seq.tokenizer import decode, train_bpe
from projects.seq2seq.train import PROJECT
from projects.seq2seq.transformer import position_angles
from trained import checkpoint_of, run_card, save_checkpoint

PAIRS = make_pairs(60, seed=1)
SMALL = {"d_model": 16, "ff_dim": 24, "num_heads": 4, "num_layers": 2}


def new_checkpoint(path, network="transformer", **options):
    """A checkpoint whose network translates by random weights, and never by PAD or BOS, which a search leaves out."""
    torch.manual_seed(0)
    tokenizer = train_bpe([line for pair in PAIRS for line in pair], 300)
    size = tokenizer.get_vocab_size()
    config = {"recurrent": {"embed_dim": 8, "hidden_dim": 8}, "transformer": {**SMALL, **options.pop("transformer", {})}}
    module = Seq2SeqModule((size, size), network, decoding={"max_length": 12, "num_beams": 1}, **config, **options)
    for parameter in module.parameters():  # a layer starts as the identity
        parameter.data.normal_(0, 0.3) if parameter.dim() > 1 else parameter.data.add_(0.1 * torch.randn_like(parameter))
    module.net.output_layer.bias.data[[PAD, BOS]] = -50.0
    entries = {
        "tokenizers": [tokenizer.to_str()] * 2,
        "languages": ["de", "en"],
        "length_limit": [0.0, 20.0],
        "max_length": 64,
    }
    return save_checkpoint(path, module, "seq2seq", **entries)


@pytest.fixture(scope="module", params=["pre_norm", "post_norm_untied"])
def paths(request, tmp_path_factory):
    """A checkpoint, and the folder that it is exported to."""
    pytest.importorskip("ctranslate2")
    folder, options = tmp_path_factory.mktemp("seq2seq"), {}
    if request.param == "post_norm_untied":
        options = {"transformer": {"norm_first": False}, "tie_word_embeddings": "none"}
    checkpoint = new_checkpoint(folder / "best.ckpt", **options)
    assert export.main(["--checkpoint", str(checkpoint), "--to", str(folder / "model")]) == 0
    return checkpoint, folder / "model"


def translate(folder, pipeline, sources, max_length=20, **options):
    """Ids and score of the best translation of each source by CTranslate2, EOS included."""
    import ctranslate2

    translator = ctranslate2.Translator(f"{folder}/ctranslate2", device="cpu", intra_threads=1)
    names, ids = tokens_of(pipeline.source_tokenizer), pipeline.target_tokenizer.get_vocab()
    rows = [[names[token] for token in source] for source in sources]
    found = translator.translate_batch(
        rows, return_scores=True, return_end_token=True, max_decoding_length=max_length, **options
    )
    return [([ids[token] for token in result.hypotheses[0]], result.scores[0]) for result in found]


@pytest.mark.parametrize("length_penalty", [0.0, 1.4])
@pytest.mark.parametrize("num_beams", [1, 4])
def test_ctranslate2_finds_the_same_translations_with_the_same_scores(paths, num_beams, length_penalty):
    checkpoint, folder = paths
    pipeline = load(checkpoint)
    sources = pipeline.encode([german for german, _ in PAIRS[:30]])
    generation = GenerationConfig(num_beams=num_beams, length_penalty=length_penalty, max_length=20)
    ours = [hypotheses[0] for hypotheses in pipeline.hypotheses(sources, generation)]
    theirs = translate(folder, pipeline, sources, beam_size=num_beams, length_penalty=length_penalty)
    same = [(a, score) for a, (tokens, score) in zip(ours, theirs, strict=True) if a.tokens == tokens]
    assert len(same) == 30 if num_beams == 1 else len(same) > 15, "greedy search has no choice; a beam may be left earlier"
    assert all(score == pytest.approx(hypothesis.score, rel=1e-4, abs=1e-5) for hypothesis, score in same)
    assert len({tuple(hypothesis.tokens) for hypothesis in ours}) > 5, "translations differ"
    for hypothesis, (tokens, score) in zip(ours, theirs, strict=True):
        assert hypothesis.tokens == tokens or hypothesis.score > score - 1e-4 * abs(score), (
            "ours goes on while a better one is possible"
        )


def test_the_folder_is_loaded_like_the_checkpoint(paths):
    checkpoint, folder = paths
    ours, again = load(checkpoint), load(folder)
    assert (again.languages, again.length_limit, again.max_length) == (ours.languages, ours.length_limit, ours.max_length)
    sentences = [german for german, _ in PAIRS[:5]]
    assert again(sentences) == ours(sentences)


def test_the_lines_of_the_card_translate(paths):
    checkpoint, folder = paths
    pipeline, sentences = load(checkpoint), [german for german, _ in PAIRS[:5]]
    by_load, by_ctranslate2 = run_card(folder, sentences=sentences)
    assert by_load["translations"] == pipeline(sentences)
    found = pipeline.hypotheses(pipeline.encode(sentences))
    expected = [decode(pipeline.target_tokenizer, hypotheses[0].tokens) for hypotheses in found]
    assert by_ctranslate2["translations"] == expected


def test_other_position_embeddings_are_found(paths, tmp_path, monkeypatch, capsys):
    def all_sines_first(time, dim):
        angles = position_angles(time, dim)
        return torch.cat([angles.sin(), angles.cos()], 1)

    monkeypatch.setattr("projects.seq2seq.ctranslate2_model.sinusoidal_embedding", all_sines_first)
    assert export.main(["--checkpoint", str(paths[0]), "--to", str(tmp_path / "model")]) == 2
    assert "off torch's; not written" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "recurrent"}, "it knows no recurrent encoder-decoder, only Transformers"),
        ({"transformer": {"position_embedding": "rotary"}}, "it knows no rotary positions in an encoder-decoder"),
    ],
)
def test_what_the_engine_does_not_know_is_one_line_and_has_weights(options, message, tmp_path, capsys):
    pytest.importorskip("ctranslate2")
    checkpoint, folder = new_checkpoint(tmp_path / "best.ckpt", **options), tmp_path / "model"
    flags = ["--checkpoint", str(checkpoint), "--to", str(folder)]
    assert export.main(flags) == 2
    assert capsys.readouterr().err == f"error: CTranslate2: {message}; add --weights_only\n" and not folder.exists()
    assert export.main([*flags, "--weights_only"]) == 0
    sentences = [german for german, _ in PAIRS[:5]]
    assert load(folder)(sentences) == load(checkpoint)(sentences)


def test_int8_is_kept_if_bleu_is_not_significantly_worse(paths, tmp_path, monkeypatch, capsys):
    checkpoint, _ = paths
    tested = []

    class Data:
        texts = {"val": ([german for german, _ in PAIRS], [english for _, english in PAIRS])}

    def significantly_worse(systems, references, *options):
        tested.append((systems, references))
        return 30.0, 20.0, 0.01

    monkeypatch.setattr("common.export.validation.validation_data", lambda *args: Data())
    flags = ["--checkpoint", str(checkpoint), "--int8", "--to"]
    assert export.main([*flags, str(tmp_path / "kept")]) == 0
    assert (tmp_path / "kept/ctranslate2-int8/model.bin").stat().st_size < (
        tmp_path / "kept/ctranslate2/model.bin"
    ).stat().st_size
    assert 1e-5 < largest_difference(load(checkpoint), tmp_path / "kept" / "ctranslate2-int8") < 1
    pipeline, before = load(checkpoint), load(checkpoint).model.state_dict()
    (tmp_path / "again").mkdir()
    write_model(pipeline, tmp_path / "again", "int8")
    assert same(pipeline.model.state_dict(), before), "quantization leaves the network's own weights as they are"
    monkeypatch.setattr("projects.seq2seq.metrics.paired_bleu", significantly_worse)
    assert export.main([*flags, str(tmp_path / "lost")]) == 0
    assert not (tmp_path / "lost/ctranslate2-int8").exists() and (tmp_path / "lost/ctranslate2").exists()
    line = "BLEU 20.00 in int8, 30.00 in float32, on 60 validation examples (paired bootstrap of BLEU: p = 0.010)"
    assert f"ctranslate2-int8: {line}: a significant loss, not written" in capsys.readouterr().out
    assert f"{line}; a significant loss, so it is left out" in (tmp_path / "lost/README.md").read_text()
    ((systems, references),) = tested
    assert references == Data.texts["val"][1] and len(systems[0]) == len(systems[1]) == 60


def test_paired_bleu_tells_a_loss_from_noise():
    references = [english for _, english in make_pairs(200, seed=2)]
    worse = [" ".join(line.split()[1:]) if i % 2 else line for i, line in enumerate(references)]
    noise = [" ".join(line.split()[1:]) if i == 7 else line for i, line in enumerate(references)]
    first, second, p_value = paired_bleu((references, worse), references, "en")
    assert first == pytest.approx(100) and second < 97 and p_value < 0.01
    assert paired_bleu((references, noise), references, "en")[2] > 0.05


def test_the_tokenizers_of_the_folder_are_those_of_the_checkpoint(paths):
    checkpoint, folder = paths
    from tokenizers import Tokenizer

    for side in ("source", "target"):
        tokenizer = Tokenizer.from_file(str(folder / f"{side}-tokenizer.json"))
        assert tokenizer.encode(PAIRS[0][0]).ids == getattr(load(checkpoint), f"{side}_tokenizer").encode(PAIRS[0][0]).ids
    vocabulary = json.loads((folder / "ctranslate2" / "shared_vocabulary.json").read_text())
    assert vocabulary[:4] == ["<pad>", "<s>", "</s>", "<unk>"] and vocabulary[EOS] == "</s>"


@pytest.mark.slow
def test_a_trained_transformer_translates_the_sample_alike_in_both_engines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    small = {"d_model": 64, "ff_dim": 128, "num_layers": 2, "dropout": 0.1}
    flags = ["--data.source", "sample", "--model.network", "transformer", "--model.lr", "0.003", "--max_epochs", "3"]
    flags += [word for name, value in small.items() for word in (f"--model.transformer.{name}", str(value))]
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    flags += ["--data.direction", "de-en", "--data.lowercase", "none", "--data.max_tokens", "1024"]
    assert train(PROJECT, ["--config", "plain.yaml", *flags, "--name", "a", *CPU]) == 0
    checkpoint = checkpoint_of(tmp_path / "runs" / "seq2seq" / "a")
    assert export.main(["--checkpoint", str(checkpoint), "--to", "model"]) == 0
    pipeline = load(checkpoint)
    pipeline.length_limit = (0.0, 60.0)  # CTranslate2 has one limit for all sentences
    sources = pipeline.encode(TranslationData("sample", "de-en").texts["test"][0])
    for num_beams, least in ((1, len(sources)), (5, 0.95 * len(sources))):
        generation = GenerationConfig(num_beams=num_beams, max_length=60)
        ours = [hypotheses[0] for hypotheses in pipeline.hypotheses(sources, generation)]
        theirs = translate("model", pipeline, sources, 60, beam_size=num_beams)
        pairs = list(zip(ours, theirs, strict=True))
        assert sum(a.tokens == tokens for a, (tokens, _) in pairs) >= least
        assert all(a.tokens != tokens or abs(a.score - score) < 1e-4 for a, (tokens, score) in pairs)
        assert all(a.score > score - 1e-4 for a, (_, score) in pairs), "ours goes on while a better one is possible"
