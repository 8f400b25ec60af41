"""The `translate` command: what it prints is what the search finds, and bad input costs one line."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from projects.seq2seq.evaluation import evaluate
from projects.seq2seq.neighbours import NeighbourOptions, NeighbourTranslator, read_pairs
from projects.seq2seq.search import GenerationConfig

from common.io.checkpoints import read_checkpoint
from common.nn.device import has_bfloat16
from projects.seq2seq.config import BOS, EOS
from projects.seq2seq.data import TranslationData
from projects.seq2seq.inference import Sampling, length_limits, translate_ids
from projects.seq2seq.networks import RecurrentTranslator, TransformerTranslator
from projects.seq2seq.tokenizer import decode, encode, encode_batch
from projects.seq2seq.translate import load_translator, main, mean_checkpoint

LINES = ["am dritten märz", "", "zweiundvierzig äpfel kosten drei euro", "halb acht"]


@pytest.fixture(scope="module")
def checkpoints(plain_run):
    return [str(path) for path in sorted((plain_run / "checkpoints").glob("step-*.ckpt"))]


@pytest.fixture(scope="module")
def translator(checkpoints):
    return load_translator([Path(checkpoints[-1])], False, torch.device("cpu"))


TEXT = "".join(f"{line}\n" for line in LINES)


def run(monkeypatch, capsys, flags, text=TEXT):
    """(exit code, lines of standard output, standard error) of the command, fed `text`."""
    data = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code = main(flags)
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err


def expected(translator, lines, **options):
    ids = [encode(translator.source_tokenizer, line) for line in lines]
    device, limit = torch.device("cpu"), translator.length_limit
    found = translate_ids(translator.net, ids, GenerationConfig(**options), device, limit=limit)
    return [[decode(translator.target_tokenizer, h.tokens) for h in hypotheses] for hypotheses in found]


def test_lines_are_translated_in_their_order_and_an_empty_one_stays_empty(monkeypatch, capsys, checkpoints, translator):
    code, lines, error = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1]])
    assert (code, error) == (0, "")
    assert lines == [" ".join(best.split()) for best, *_ in expected(translator, LINES)]
    assert lines[1] == "" and lines[0]


def test_a_file_gives_what_standard_input_gives(monkeypatch, capsys, checkpoints, tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("\r\n".join(LINES))  # as Windows ends lines, the last one without an end
    _, from_file, _ = run(monkeypatch, capsys, [str(file), "--checkpoint", checkpoints[-1]], "")
    _, from_stdin, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1]])
    assert from_file == from_stdin


def test_references_are_scored_against(monkeypatch, capsys, checkpoints, translator, tmp_path):
    references = tmp_path / "references.txt"
    references.write_text("on march third\n\nforty-two apples cost three euros\nHalf past seven\n")
    flags = ["--checkpoint", checkpoints[-1], "--reference", str(references), "--n_best", "2", "--beam", "2"]
    code, lines, error = run(monkeypatch, capsys, flags)
    assert code == 0 and len(lines) == 7  # an empty line has one translation
    texts = [" ".join(best.split()) for best, *_ in expected(translator, LINES, beam=2)]
    scores = evaluate(texts, references.read_text().splitlines(), "en")
    figures = (scores.bleu, scores.bleu_lower, scores.bleu_tokenized, scores.chrf)
    assert [float(number) for number in re.findall(r"\d+\.\d+", error)] == [round(figure, 2) for figure in figures]
    references.write_text("on march third\n")
    assert run(monkeypatch, capsys, flags)[0] == 2


def test_n_best_stands_behind_scores_in_order(monkeypatch, capsys, checkpoints, translator):
    _, lines, _ = run(
        monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--n_best", "3", "--beam", "4"], f"{LINES[0]}\n"
    )
    scores, texts = zip(*(line.split("\t") for line in lines), strict=True)
    assert list(texts) == [
        " ".join(text.split()) for text in expected(translator, LINES[:1], beam=4, num_return_sequences=3)[0]
    ]
    assert len(scores) == 3 and list(map(float, scores)) == sorted(map(float, scores), reverse=True)


def test_the_batch_size_changes_nothing(translator):
    ids = [encode(translator.source_tokenizer, line) for line in LINES]
    device, options = torch.device("cpu"), GenerationConfig(num_return_sequences=2)
    one, all_at_once = (translate_ids(translator.net, ids, options, device, batch_size=n) for n in (1, 9))
    for a, b in zip(one, all_at_once, strict=True):
        assert [h.tokens for h in a] == [h.tokens for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-5)


def test_cores_that_share_the_batches_change_nothing(monkeypatch, translator):
    ids, cpu = [encode(translator.source_tokenizer, line) for line in LINES], torch.device("cpu")
    seen, read = [], translator.net.encode

    def noted(*arguments):
        seen.append((torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return read(*arguments)

    def found(threads, **options):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return translate_ids(translator.net, ids, GenerationConfig(num_return_sequences=2), cpu, batch_size=1, **options)
        finally:
            torch.set_num_threads(before)

    alone = found(1)
    monkeypatch.setattr(translator.net, "encode", noted)
    for a, b in zip(alone, found(2), strict=True):
        assert [h.tokens for h in a] == [h.tokens for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-5)
    assert seen == 3 * [(1, False, False)], "each sentence by one core, and none for the empty line"
    if has_bfloat16("cpu"):  # where it is emulated, an LSTM fails
        found(2, precision="bf16-mixed")
        assert seen[3:] == 3 * [(1, False, True)]
    drawn = [[h.tokens for h in row] for row in found(2, sampling=Sampling(seed=1))]
    assert drawn == [[h.tokens for h in row] for row in found(1, sampling=Sampling(seed=1))]


@pytest.mark.parametrize("kind", [RecurrentTranslator, TransformerTranslator])
def test_in_bfloat16_scores_are_sums_of_float32_and_near_the_true_ones(kind):
    torch.manual_seed(0)
    net, device = kind((40, 40), width=32).eval(), torch.device("cpu")
    torch.nn.init.normal_(net.output.weight, std=0.5)  # opinions, of which to be sure
    sources = [torch.randint(3, 40, (length,)).tolist() for length in (3, 9, 20)]
    found = translate_ids(net, sources, GenerationConfig(min_length=5), device, precision="bf16-mixed")
    sums = []
    for source, (best, *_) in zip(sources, found, strict=True):
        given = torch.tensor([[BOS, *best.tokens[:-1]]])
        hidden = net(torch.tensor([[*source, EOS]]), torch.tensor([len(source) + 1]), given)
        log_probs = net.output(hidden).log_softmax(2)[0]
        sums.append(log_probs[range(len(best.tokens)), best.tokens].sum())
        assert best.log_probability == pytest.approx(sums[-1].item(), rel=0.03)
    exact = torch.tensor([best.log_probability for best, *_ in found], dtype=torch.float64)
    assert (exact.bfloat16().double() != exact).any()  # a sum in bfloat16 would be one of its few numbers
    assert not torch.equal(exact, torch.stack(sums).double())  # and it was not float32 after all


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_the_precision_reaches_the_search(monkeypatch, capsys, checkpoints, translator):
    code, lines, _ = run(
        monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--precision", "bf16-mixed", "--n_best", "2"]
    )
    ids = [encode(translator.source_tokenizer, line) for line in LINES]
    options, limit = GenerationConfig(num_return_sequences=2), translator.length_limit
    found = translate_ids(translator.net, ids, options, torch.device("cpu"), limit=limit, precision="bf16-mixed")
    assert code == 0
    assert [line.split("\t")[0] for line in lines] == [f"{h.score:.4f}" for hypotheses in found for h in hypotheses]


def test_a_precision_that_the_processor_lacks_is_one_line(monkeypatch, capsys, checkpoints):
    monkeypatch.setattr("common.device.has_bfloat16", lambda kind: False)
    code, lines, error = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--precision", "bf16-mixed"])
    assert (code, lines) == (2, [])
    assert error == "error: --precision bf16-mixed: this processor has no bfloat16; use 32-true\n"


def test_a_long_line_is_read_to_its_limit_and_that_is_said(monkeypatch, capsys, checkpoints, translator):
    long = "drei " * 10_000
    code, lines, error = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--beam", "2"], f"halb acht\n{long}\n")
    assert code == 0 and len(lines) == 2
    assert error.startswith("line 2: 30001 tokens") and "of which the first 256 are translated" in error
    assert lines[0] == " ".join(expected(translator, ["halb acht"], beam=2)[0][0].split())


def test_translations_are_no_longer_than_their_limit(translator, checkpoints):
    assert length_limits(torch.tensor([1, 7])).tolist() == [13, 22]
    assert length_limits(torch.tensor([1, 7]), (1.25, 3.5)).tolist() == [4, 12]
    assert length_limits(torch.tensor([1]), (0.5, 0.0)).tolist() == [1], "at least the end"
    assert tuple(read_checkpoint(Path(checkpoints[-1]))["length_limit"]) == translator.length_limit
    ids = [encode(translator.source_tokenizer, line) for line in LINES]
    found = translate_ids(translator.net, ids, GenerationConfig(min_length=100, max_length=200), torch.device("cpu"))
    assert [len(h[0].tokens) for h in found] == [(3 * (len(x) + 1)) // 2 + 12 if x else 1 for x in ids]


def test_a_prefix_is_kept(monkeypatch, capsys, checkpoints):
    _, lines, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--prefix", "on march"], "am dritten märz\n")
    assert lines[0].startswith("on march")


def test_an_ensemble_of_one_network_twice_says_what_it_says(monkeypatch, capsys, checkpoints):
    _, alone, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1]])
    for flags in ([], ["--average"]):
        _, twice, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], checkpoints[-1], *flags])
        assert twice == alone


def test_averaged_weights_are_the_mean(checkpoints):
    parts = [read_checkpoint(Path(path)) for path in checkpoints[-2:]]
    mean = mean_checkpoint(parts, checkpoints[-2:])["state_dict"]
    for name, value in mean.items():
        torch.testing.assert_close(value, (parts[0]["state_dict"][name] + parts[1]["state_dict"][name]) / 2)
    assert not torch.equal(mean["net.readout.weight"], parts[0]["state_dict"]["net.readout.weight"])


def test_with_examples_it_says_what_network_and_neighbours_say(monkeypatch, capsys, checkpoints, translator, pairs_folder):
    texts = TranslationData(str(pairs_folder), "de-en").texts["train"]
    tokenizers = translator.source_tokenizer, translator.target_tokenizer
    source, target = (encode_batch(*side) for side in zip(tokenizers, texts, strict=True))
    store = read_pairs(translator.net, (source, target), torch.device("cpu"))
    both = replace(translator, net=NeighbourTranslator(translator.net, store, NeighbourOptions(9, 0.7, 0.5)))
    flags = ["--examples", str(pairs_folder), "--neighbours", "9", "--neighbour_share", "0.7"]
    flags += ["--neighbour_temperature", "0.5", "--checkpoint", checkpoints[-1]]
    code, lines, error = run(monkeypatch, capsys, flags)
    assert (code, error) == (0, "")
    assert lines == [" ".join(best.split()) for best, *_ in expected(both, LINES)]
    assert lines != [" ".join(best.split()) for best, *_ in expected(translator, LINES)]
    assert lines == run(monkeypatch, capsys, [*flags, checkpoints[-1]])[1]  # an ensemble of it and itself


def test_sampling_is_repeated_by_its_seed_and_greedy_among_one(translator):
    ids, device = [encode(translator.source_tokenizer, line) for line in LINES], torch.device("cpu")

    def drawn(**options):
        found = translate_ids(translator.net, ids, GenerationConfig(), device, Sampling(**options))
        return [h[0].tokens for h in found]

    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    greedy = [h[0].tokens for h in translate_ids(translator.net, ids, GenerationConfig(beam=1), device)]
    assert drawn(top_k=1) == greedy


def test_attention_is_drawn(monkeypatch, capsys, checkpoints, tmp_path):
    png = tmp_path / "map.png"
    code, _, error = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--attention", str(png)])
    assert code == 0 and png.stat().st_size > 5000 and str(png) in error


def test_decoding_stops_at_the_end(translator):
    ids = encode(translator.target_tokenizer, "one two")
    assert decode(translator.target_tokenizer, [*ids, EOS, *ids]) == "one two"


@pytest.mark.parametrize(
    ("flags", "text", "line"),
    [
        (["nowhere.txt"], "", "nowhere.txt: No such file"),
        ([], b"gut\nsch\xf6n\n", "line 2 is not UTF-8"),
        (["--beam", "0"], "x\n", "beam 0"),
        (["--n_best", "9"], "x\n", "n_best 9 is more than beam 5"),
        (["--batch_size", "0"], "x\n", "--batch_size 0"),
        (["--attention", "nowhere/map.png"], "\n", "there is no line to draw"),
        (["--neighbours", "0"], "x\n", "neighbours 0"),
        (["--neighbour_share", "1"], "x\n", "neighbour_share 1.0"),
        (["--neighbour_temperature", "0"], "x\n", "neighbour_temperature 0.0"),
        (["--examples", "nowhere/at/all"], "x\n", "nowhere/at/all"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, checkpoints, flags, text, line):
    code, _, error = run(monkeypatch, capsys, [*flags, "--checkpoint", checkpoints[-1]], text)
    assert code == 2 and line in error and len(error.splitlines()) == 1


def test_bad_checkpoints_are_one_line(monkeypatch, capsys, checkpoints, tmp_path):
    checkpoint = torch.load(checkpoints[-1], weights_only=True)
    other, cut = tmp_path / "other.ckpt", tmp_path / "cut.ckpt"
    torch.save(checkpoint | {"project": "cifar10"}, other)
    cut.write_bytes(b"PK")
    for path, line in [(other, "belongs to cifar10"), (cut, "truncated or damaged"), (tmp_path / "no.ckpt", "no such file")]:
        code, lines, error = run(monkeypatch, capsys, ["--checkpoint", str(path)])
        assert (code, lines) == (2, []) and line in error and len(error.splitlines()) == 1
