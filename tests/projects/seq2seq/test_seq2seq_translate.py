"""The `translate` command prints what the search finds, and bad input costs one line."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.io.checkpoints import plain, read_checkpoint
from common.nn.device import has_bfloat16
from projects.seq2seq.batch_decoding import translate_ids
from projects.seq2seq.config import BOS, EOS, GenerationConfig, RecurrentConfig, SamplingConfig, TransformerConfig
from projects.seq2seq.constraints import max_lengths
from projects.seq2seq.data import TranslationData
from projects.seq2seq.inference import load, mean_state
from projects.seq2seq.knn import KNNConfig, KNNModel, build_datastore
from projects.seq2seq.metrics import score_translations
from projects.seq2seq.module import Seq2SeqModule
from projects.seq2seq.recurrent import RecurrentModel
from projects.seq2seq.tokenizer import decode, encode, encode_batch
from projects.seq2seq.transformer import TransformerModel
from projects.seq2seq.translate import main

LINES = ["am dritten märz", "", "zweiundvierzig äpfel kosten drei euro", "halb acht"]


@pytest.fixture(scope="module")
def checkpoints(plain_run):
    return [str(path) for path in sorted((plain_run / "checkpoints").glob("step-*.ckpt"))]


@pytest.fixture(scope="module")
def pipeline(checkpoints):
    return load(Path(checkpoints[-1]))


TEXT = "".join(f"{line}\n" for line in LINES)


def run(monkeypatch, capsys, flags, text=TEXT):
    """(exit code, lines of standard output, standard error) of the command, fed `text`."""
    data = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    try:
        code = main(flags)
    except SystemExit as stop:  # of the parser
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err


def expected(pipeline, lines, model=None, **options):
    ids = [encode(pipeline.source_tokenizer, line) for line in lines]
    device, limit = torch.device("cpu"), pipeline.length_limit
    found = translate_ids(model or pipeline.model, ids, GenerationConfig(**options), device, length_limit=limit)
    return [[" ".join(decode(pipeline.target_tokenizer, h.tokens).split()) for h in row] for row in found]


def test_lines_are_translated_in_their_order_and_an_empty_one_stays_empty(monkeypatch, capsys, checkpoints, pipeline):
    code, lines, error = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1]])
    assert (code, error) == (0, "")
    assert lines == [best for best, *_ in expected(pipeline, LINES)]
    assert lines[1] == "" and lines[0]


def test_a_file_gives_what_standard_input_gives(monkeypatch, capsys, checkpoints, tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("\r\n".join(LINES))  # as Windows ends lines, the last one without an end
    _, from_file, _ = run(monkeypatch, capsys, [str(file), "--checkpoint", checkpoints[-1]], "")
    _, from_stdin, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1]])
    assert from_file == from_stdin


def test_references_are_scored_against(monkeypatch, capsys, checkpoints, pipeline, tmp_path):
    references = tmp_path / "references.txt"
    references.write_text("on march third\n\nforty-two apples cost three euros\nHalf past seven\n")
    flags = [
        "--checkpoint",
        checkpoints[-1],
        "--reference",
        str(references),
        "--num_return_sequences",
        "2",
        "--num_beams",
        "2",
    ]
    code, lines, error = run(monkeypatch, capsys, flags)
    assert code == 0 and len(lines) == 7  # an empty line has one translation
    texts = [best for best, *_ in expected(pipeline, LINES, num_beams=2)]
    scores, _ = score_translations(texts, references.read_text().splitlines(), "en")
    printed = {name: float(value) for name, value in re.findall(r"(\w+) (\d+\.\d+)", error)}
    assert printed == {name: round(value, 2) for name, value in scores.items()}
    references.write_text("on march third\n")
    assert run(monkeypatch, capsys, flags)[0] == 2


def test_an_n_best_list_is_printed_behind_its_scores_in_order(monkeypatch, capsys, checkpoints, pipeline):
    _, lines, _ = run(
        monkeypatch,
        capsys,
        ["--checkpoint", checkpoints[-1], "--num_return_sequences", "3", "--num_beams", "4"],
        f"{LINES[0]}\n",
    )
    scores, texts = zip(*(line.split("\t") for line in lines), strict=True)
    assert list(texts) == expected(pipeline, LINES[:1], num_beams=4, num_return_sequences=3)[0]
    assert len(scores) == 3 and list(map(float, scores)) == sorted(map(float, scores), reverse=True)


def test_the_batch_size_changes_nothing(pipeline):
    ids = [encode(pipeline.source_tokenizer, line) for line in LINES]
    device, options = torch.device("cpu"), GenerationConfig(num_return_sequences=2)
    one, all_at_once = (translate_ids(pipeline.model, ids, options, device, batch_size=n) for n in (1, 9))
    for a, b in zip(one, all_at_once, strict=True):
        assert [h.tokens for h in a] == [h.tokens for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-5)


def test_cores_that_share_the_batches_change_nothing(monkeypatch, pipeline):
    ids, cpu = [encode(pipeline.source_tokenizer, line) for line in LINES], torch.device("cpu")
    calls, read = [], pipeline.model.encode

    def noted(*arguments):
        calls.append((torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return read(*arguments)

    def found(threads, **options):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return translate_ids(pipeline.model, ids, GenerationConfig(num_return_sequences=2), cpu, batch_size=1, **options)
        finally:
            torch.set_num_threads(before)

    alone = found(1)
    monkeypatch.setattr(pipeline.model, "encode", noted)
    for a, b in zip(alone, found(2), strict=True):
        assert [h.tokens for h in a] == [h.tokens for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-5)
    assert calls == 3 * [(1, False, False)], "each sentence by one core, and none for the empty line"
    if has_bfloat16("cpu"):  # where it is emulated, an LSTM fails
        found(2, precision="bf16-mixed")
        assert calls[3:] == 3 * [(1, False, True)]
    sampled = [[h.tokens for h in row] for row in found(2, sampling=SamplingConfig(seed=1))]
    assert sampled == [[h.tokens for h in row] for row in found(1, sampling=SamplingConfig(seed=1))]


@pytest.mark.parametrize(
    "kind, config", [(RecurrentModel, RecurrentConfig(32, 512)), (TransformerModel, TransformerConfig(32))]
)
def test_in_bfloat16_scores_are_sums_of_float32_and_near_the_true_ones(kind, config):
    torch.manual_seed(0)
    net, device = kind((40, 40), config).eval(), torch.device("cpu")
    torch.nn.init.normal_(net.output_layer.weight, std=0.5)  # far from uniform
    sources = [torch.randint(3, 40, (length,)).tolist() for length in (3, 9, 20)]
    found = translate_ids(net, sources, GenerationConfig(min_length=5), device, precision="bf16-mixed")
    sums = []
    for source, (best, *_) in zip(sources, found, strict=True):
        inputs = torch.tensor([[BOS, *best.tokens[:-1]]])
        hidden = net(torch.tensor([[*source, EOS]]), torch.tensor([len(source) + 1]), inputs)
        log_probs = net.output_layer(hidden).log_softmax(2)[0]
        sums.append(log_probs[range(len(best.tokens)), best.tokens].sum())
        assert best.log_probability == pytest.approx(sums[-1].item(), rel=0.03)
    exact = torch.tensor([best.log_probability for best, *_ in found], dtype=torch.float64)
    assert (exact.bfloat16().double() != exact).any()  # a sum in bfloat16 would be one of its few numbers
    assert not torch.equal(exact, torch.stack(sums).double())  # and it was not float32 after all


@pytest.mark.parametrize("sampling", [None, SamplingConfig()])
@pytest.mark.parametrize("kind, config", [(RecurrentModel, RecurrentConfig(8, 8)), (TransformerModel, TransformerConfig(8))])
def test_network_that_diverged_has_no_translations(kind, config, sampling):
    net = kind((40, 40), config).eval()
    torch.nn.init.constant_(net.output_layer.weight, torch.nan)
    with pytest.raises(UserError, match="not finite"):
        translate_ids(net, [[5, 6], [7]], GenerationConfig(), torch.device("cpu"), sampling)


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_the_precision_reaches_the_search(monkeypatch, capsys, checkpoints, pipeline):
    code, lines, _ = run(
        monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--precision", "bf16-mixed", "--num_return_sequences", "2"]
    )
    ids = [encode(pipeline.source_tokenizer, line) for line in LINES]
    options, limit = GenerationConfig(num_return_sequences=2), pipeline.length_limit
    found = translate_ids(pipeline.model, ids, options, torch.device("cpu"), length_limit=limit, precision="bf16-mixed")
    assert code == 0
    assert [line.split("\t")[0] for line in lines] == [f"{h.score:.4f}" for hypotheses in found for h in hypotheses]


def test_a_precision_that_the_processor_lacks_is_one_line(monkeypatch, capsys, checkpoints):
    monkeypatch.setattr("common.nn.device.has_bfloat16", lambda kind: False)
    code, lines, error = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--precision", "bf16-mixed"])
    assert (code, lines) == (2, [])
    assert error == "error: --precision bf16-mixed: this processor has no bfloat16; use 32-true\n"


def test_a_long_line_is_cut_and_counted(monkeypatch, capsys, checkpoints, pipeline):
    long = "drei " * 10_000
    code, lines, error = run(
        monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--num_beams", "2"], f"halb acht\n{long}\n"
    )
    assert code == 0 and len(lines) == 2
    assert error == "line 2: cut from 30001 to 256 tokens\n"
    assert lines[0] == expected(pipeline, ["halb acht"], num_beams=2)[0][0]


def test_sources_are_cut_at_the_length_of_the_training(monkeypatch, capsys, checkpoints, tmp_path):
    checkpoint = torch.load(checkpoints[-1], weights_only=True)
    assert checkpoint["max_length"] == 256
    other = tmp_path / "other.ckpt"
    for length in (300, 9):
        torch.save(checkpoint | {"max_length": length}, other)
        _, _, error = run(monkeypatch, capsys, ["--checkpoint", str(other), "--num_beams", "1"], "drei " * 100 + "\n")
        assert error == f"line 1: cut from 301 to {length} tokens\n"
    assert load([Path(checkpoints[-1]), other]).max_length == 9


def test_translations_are_no_longer_than_their_limit(pipeline, checkpoints):
    assert max_lengths(torch.tensor([1, 7])).tolist() == [13, 22]
    assert max_lengths(torch.tensor([1, 7]), (1.25, 3.5)).tolist() == [4, 12]
    assert max_lengths(torch.tensor([1]), (0.5, 0.0)).tolist() == [1], "at least the end"
    assert tuple(read_checkpoint(Path(checkpoints[-1]))["length_limit"]) == pipeline.length_limit
    ids = [encode(pipeline.source_tokenizer, line) for line in LINES]
    found = translate_ids(pipeline.model, ids, GenerationConfig(min_length=100, max_length=200), torch.device("cpu"))
    assert [len(h[0].tokens) for h in found] == [(3 * (len(x) + 1)) // 2 + 12 if x else 1 for x in ids]


def test_a_prefix_is_kept(monkeypatch, capsys, checkpoints):
    _, lines, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--prefix", "on march"], "am dritten märz\n")
    assert lines[0].startswith("on march")


def test_an_ensemble_of_one_network_twice_is_that_network(monkeypatch, capsys, checkpoints):
    _, alone, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1]])
    for flags in ([], ["--average_weights"]):
        _, twice, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], checkpoints[-1], *flags])
        assert twice == alone


def test_weights_of_networks_that_differ_are_not_averaged(tmp_path, pipeline, checkpoints):
    saved = torch.load(checkpoints[-1], weights_only=True)

    def checkpoint(name, **options):
        config = TransformerConfig(16, 16, num_layers=1, **options)
        module = Seq2SeqModule((300, 300), "transformer", transformer=config)
        torch.save(
            saved | {"state_dict": module.state_dict(), "hyper_parameters": plain(dict(module.hparams))}, tmp_path / name
        )
        return tmp_path / name

    first = checkpoint("first.ckpt")
    assert load([first, checkpoint("dropout.ckpt", dropout=0.2)], average_weights=True)
    for options in ({"num_heads": 2}, {"position_embedding": "rotary"}, {"norm_first": False, "num_heads": 2}):
        with pytest.raises(UserError, match=r"--average_weights: .*other.ckpt is of another network than .*first.ckpt"):
            load([first, checkpoint("other.ckpt", **options)], average_weights=True)


def test_blank_lines_stay_empty_and_broken_ones_are_one_line(monkeypatch, capsys, checkpoints):
    text = "halb acht\n \n\u00a0\u3000\n\u200b\ufeff\u200b\nhalb\racht\n\t\x0b\n"
    code, lines, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1]], text)
    assert code == 0 and [bool(line) for line in lines] == [True, False, False, False, True, False]


def test_datastore_errors_speak_of_its_own_flag(monkeypatch, capsys, checkpoints, tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"a": "x", "b": "y"}\n')
    code, lines, error = run(monkeypatch, capsys, ["--datastore", str(tmp_path), "--checkpoint", checkpoints[-1]])
    assert (code, lines) == (2, []) and error.startswith(f"error: --datastore {tmp_path}: direction de-en: not two columns")


def test_averaged_weights_are_the_mean(checkpoints):
    parts = [read_checkpoint(Path(path)) for path in checkpoints[-2:]]
    mean = mean_state([part["state_dict"] for part in parts])
    for name, value in mean.items():
        torch.testing.assert_close(value, (parts[0]["state_dict"][name] + parts[1]["state_dict"][name]) / 2)
    assert not torch.equal(mean["net.bridge.weight"], parts[0]["state_dict"]["net.bridge.weight"])


def test_with_a_datastore_translations_are_those_of_network_and_neighbors(
    monkeypatch, capsys, checkpoints, pipeline, pairs_folder
):
    texts = TranslationData(str(pairs_folder), "de-en").texts["train"]
    tokenizers = pipeline.source_tokenizer, pipeline.target_tokenizer
    source, target = (encode_batch(*side) for side in zip(tokenizers, texts, strict=True))
    store = build_datastore(pipeline.model, (source, target), torch.device("cpu"))
    both = KNNModel(pipeline.model, store, KNNConfig(9, 0.7, 0.5))
    flags = ["--datastore", str(pairs_folder), "--knn_k", "9", "--knn_lambda", "0.7"]
    flags += ["--knn_temperature", "0.5", "--checkpoint", checkpoints[-1]]
    code, lines, error = run(monkeypatch, capsys, flags)
    assert (code, error) == (0, "")
    assert lines == [best for best, *_ in expected(pipeline, LINES, both)]
    assert lines != [best for best, *_ in expected(pipeline, LINES)]
    assert lines == run(monkeypatch, capsys, [*flags, checkpoints[-1]])[1]  # an ensemble of it and itself


def test_sampling_is_repeated_by_its_seed_and_greedy_among_one(pipeline):
    ids, device = [encode(pipeline.source_tokenizer, line) for line in LINES], torch.device("cpu")

    def sampled(**options):
        found = translate_ids(pipeline.model, ids, GenerationConfig(), device, SamplingConfig(**options))
        return [h[0].tokens for h in found]

    assert sampled(seed=1) == sampled(seed=1) != sampled(seed=2)
    greedy = [h[0].tokens for h in translate_ids(pipeline.model, ids, GenerationConfig(num_beams=1), device)]
    assert sampled(top_k=1) == greedy


def test_attention_is_drawn(monkeypatch, capsys, checkpoints, tmp_path):
    png = tmp_path / "map.png"
    code, _, error = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--attention", str(png)])
    assert code == 0 and png.stat().st_size > 5000 and str(png) in error


def test_the_python_api_translates_raw_sentences(monkeypatch, capsys, checkpoints, pipeline):
    _, lines, _ = run(monkeypatch, capsys, ["--checkpoint", checkpoints[-1], "--num_beams", "3", "--max_length", "24"])
    assert pipeline(LINES) == lines, "as the run's test decodes"
    generation = GenerationConfig(num_beams=2)
    assert pipeline(LINES, generation=generation) == [best for best, *_ in expected(pipeline, LINES, num_beams=2)]
    assert pipeline([]) == []


@pytest.mark.parametrize(
    ("flags", "text", "line"),
    [
        (["nowhere.txt"], "", "nowhere.txt: No such file"),
        ([], b"gut\nsch\xf6n\n", "line 2 is not UTF-8"),
        (["--num_beams", "0"], "x\n", "--num_beams: 0: use a whole number of at least 1"),
        (["--min_length", "-1"], "x\n", "--min_length: -1: use a whole number of at least 0"),
        (["--no_repeat_ngram_size", "-1"], "x\n", "--no_repeat_ngram_size: -1: use"),
        (["--top_k", "-1"], "x\n", "--top_k: -1: use"),
        (["--top_p", "1.5"], "x\n", "--top_p: 1.5: use a number from 1e-06 to 1"),
        (["--temperature", "nan"], "x\n", "--temperature: nan: use a number of at least"),
        (["--length_penalty", "inf"], "x\n", "--length_penalty: inf: use a number from -10 to 10"),
        (["--seed", "-1"], "x\n", "--seed: -1: use a whole number from 0"),
        (["--num_return_sequences", "9"], "x\n", "--num_return_sequences 9: more than --num_beams 5"),
        (["--min_length", "200"], "x\n", "--min_length 200: more than --max_length 128"),
        (["--attention", "nowhere/map.png"], "\n", "there is no line to plot"),
        (["--knn_lambda", "1.5"], "x\n", "--knn_lambda: 1.5: use a number from 0 to 1"),
        (["--knn_temperature", "0"], "x\n", "--knn_temperature: 0: use a number of at least 1e-06"),
        (["--temperature", "inf"], "x\n", "--temperature: inf: use a number of at least"),
        (["--temperature", "1e-30"], "x\n", "--temperature: 1e-30: use a number of at least"),
        (["--seed", "1" + 23 * "0"], "x\n", "--seed: 10000000000000000000: use a whole number from 0"),
        (["--prefix", "on march " * 40], "x\n", "--prefix: "),
        (["--datastore", "nowhere/at/all"], "x\n", "--datastore nowhere/at/all: "),
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
    nan, text = tmp_path / "nan.ckpt", tmp_path / "lines.txt"
    text.write_text(TEXT)
    checkpoint["state_dict"]["net.bridge.weight"][0, 0] = torch.nan
    torch.save(checkpoint, nan)
    for path, line in [
        (other, "belongs to cifar10"),
        (cut, "truncated or damaged"),
        (tmp_path / "no.ckpt", "no such file"),
        (nan, "nan.ckpt: net.bridge.weight is not finite"),
        (text, "lines.txt: not a checkpoint; the files to read go before --checkpoint"),
    ]:
        code, lines, error = run(monkeypatch, capsys, ["--checkpoint", str(path)])
        assert (code, lines) == (2, []) and line in error and len(error.splitlines()) == 1
