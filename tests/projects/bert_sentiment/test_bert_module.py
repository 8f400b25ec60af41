"""Losses, optimizer and figures: equal to torch's, transformers' and sklearn's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from transformers import get_linear_schedule_with_warmup

from common.errors import UserError
from projects.bert_sentiment.data import Batch
from projects.bert_sentiment.evaluation import accuracy_by_length, scores, temperature
from projects.bert_sentiment.module import BertSentimentModule
from projects.bert_sentiment.networks import OwnHead
from projects.bert_sentiment.optim import merge_lora, parameter_groups
from projects.bert_sentiment.pretrained import new_model

ENCODER = {
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def make(**options) -> BertSentimentModule:
    return BertSentimentModule(["no", "so", "yes"], **{"encoder": ENCODER, "dropout": 0.0, **options})


@pytest.fixture
def batch() -> Batch:
    mask = (torch.arange(7) < torch.tensor([7, 5, 3, 6])[:, None]).long()
    return Batch(
        torch.randint(5, 60, (4, 7)) * mask, mask, torch.tensor([0, 2, 1, 2]), torch.full((4,), 0.25), torch.arange(4)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy(batch, smoothing):
    module = make(label_smoothing=smoothing)
    logits = module.net.model(input_ids=batch.ids, attention_mask=batch.mask).logits
    expected = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    torch.testing.assert_close(module.compute_loss(batch), expected)


def test_class_weights_are_torchs(batch):
    weight = torch.tensor([2.0, 1.0, 0.5])
    share = weight[batch.labels] / weight[batch.labels].sum()
    module = make()
    expected = F.cross_entropy(module(batch.ids, batch.mask), batch.labels, weight=weight)
    torch.testing.assert_close(module.compute_loss(batch._replace(weight=share)), expected)


def test_the_floor_of_the_smoothed_loss():
    module = make(label_smoothing=0.2)
    target = torch.full((3,), 0.2 / 3)
    target[0] += 0.8
    assert module.min_loss == pytest.approx(float(-(target * target.log()).sum()))
    assert make().min_loss == 0.0


def test_checkpointing_changes_memory_not_gradients(batch):
    gradients = []
    for saving in (False, True):
        torch.manual_seed(1)
        module = make(gradient_checkpointing=saving).train()
        module.compute_loss(batch).backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_parameter_takes_part(batch, pooling):
    module = make(pooling=pooling)
    module.compute_loss(batch).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == [], "else DDP would wait for it"


# the optimizer


def test_rates_fall_from_layer_to_layer_and_vectors_do_not_decay():
    net = OwnHead(new_model(ENCODER, ["no", "yes"]))
    groups = parameter_groups(net, 2, lr=1.0, layer_decay=0.5, head_lr=3.0, weight_decay=0.1)
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(rate) == sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    expected = {"classifier": 3.0, "layer.1.": 1.0, "layer.0.": 0.5, "embeddings": 0.25}
    for name, parameter in net.named_parameters():
        lr = next((value for part, value in expected.items() if part in name), 3.0)  # the pooler belongs to the head
        assert rate[id(parameter)] == (lr, 0.1 if parameter.dim() > 1 else 0.0), name


def test_the_schedule_is_transformers(monkeypatch):
    module = make(lr=1.0, warmup=0.1, layer_decay=1.0)
    module._trainer = SimpleNamespace(estimated_stepping_batches=50)
    found = module.configure_optimizers()
    schedule, optimizer = found["lr_scheduler"]["scheduler"], found["optimizer"]
    weight = nn.Parameter(torch.zeros(1))
    reference_optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = get_linear_schedule_with_warmup(reference_optimizer, 5, 50)
    rates, references = [], []
    for _ in range(50):
        optimizer.step(), reference_optimizer.step()
        rates.append(schedule.get_last_lr()[0])
        references.append(reference.get_last_lr()[0])
        schedule.step(), reference.step()
    assert rates[5:] == pytest.approx(references[5:])
    assert rates[:5] == pytest.approx(references[1:6]), "ours begins at the first step up: a step at rate 0 learns nothing"


def test_a_run_without_end_is_refused():
    module = make()
    module._trainer = SimpleNamespace(estimated_stepping_batches=math.inf)
    with pytest.raises(UserError, match="--max_epochs -1"):
        module.configure_optimizers()


# adapters


@pytest.fixture
def lora(batch):
    pytest.importorskip("peft")
    module = make(lora_rank=3)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)  # they begin at zero, so that nothing changes
    return module


def test_adapters_begin_without_an_effect_and_leave_the_encoder_alone(batch):
    pytest.importorskip("peft")
    torch.manual_seed(2)
    plain = make().eval()
    torch.manual_seed(2)
    module = make(lora_rank=3).eval()
    torch.testing.assert_close(module(batch.ids, batch.mask), plain(batch.ids, batch.mask))
    learning = {name for name, p in module.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name or "classifier" in name or "pooler" in name for name in learning)
    assert any("classifier" in name for name in learning) and any("pooler" in name for name in learning)
    assert sum("lora_A" in name for name in learning) == 2 * 6, "six linear layers in each of two"


def test_merged_adapters_compute_the_same(batch, lora):
    lora.eval()
    before = lora(batch.ids, batch.mask)
    plain = make().eval()
    merge_lora(lora.net)
    torch.testing.assert_close(lora(batch.ids, batch.mask), before, rtol=1e-4, atol=1e-5)
    assert set(lora.net.state_dict()) == set(plain.net.state_dict())


# figures


def test_scores_are_sklearns():
    logits, labels = torch.randn(200, 3), torch.randint(3, (200,))
    found = scores(logits, labels)
    predicted = logits.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    two = scores(logits[:, :2], labels % 2)
    assert two["f1"] == pytest.approx(f1_score(labels % 2, logits[:, :2].argmax(1)))


def test_calibration_error_by_hand():
    logits, labels = 3 * torch.randn(500, 2), torch.randint(2, (500,))
    for divisor, name in [(1.0, "calibration_error"), (4.0, "calibrated_error")]:
        confidence, predicted = (logits / divisor).softmax(1).max(1)
        bins = torch.bucketize(confidence, torch.linspace(0, 1, 16)[1:-1], right=False)
        gaps = [
            ((predicted == labels)[bins == b].float().mean() - confidence[bins == b].mean()).abs()
            * (bins == b).float().mean()
            for b in bins.unique()
        ]
        assert scores(logits, labels, 4.0)[name] == pytest.approx(float(sum(gaps)), abs=1e-5)


@pytest.mark.parametrize("scale", [0.3, 1.0, 12.0])
def test_the_temperature_has_the_least_loss_of_a_grid(scale):
    truth = torch.randn(2000, 3)
    labels = torch.multinomial(truth.softmax(1), 1).squeeze(1)
    logits = scale * truth
    found = float(temperature(logits, labels))
    grid = torch.logspace(-2, 2, 2001)
    losses = torch.stack([F.cross_entropy(logits.double() / t, labels) for t in grid])
    best = float(grid[losses.argmin()])
    assert found == pytest.approx(best, rel=0.005) and found == pytest.approx(scale, rel=0.15)


def test_confidence_that_is_worth_nothing_has_the_highest_temperature():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    assert temperature(logits, torch.tensor([1, 0, 1])) == 100


def test_no_mistakes_leave_the_temperature_at_one():
    assert temperature(torch.eye(3), torch.arange(3)) == 1
    assert temperature(torch.empty(0, 2), torch.empty(0, dtype=torch.long)) == 1


def test_accuracy_by_length_by_hand():
    texts = ["one", "one two three four five", "1 2 3 4 5 6", " ".join("a" * 41)]
    found = accuracy_by_length(texts, torch.tensor([True, False, True, True]))
    assert found == {"1-5": (50.0, 2), "6-10": (100.0, 1), "41+": (100.0, 1)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "--model.pooling max: use cls or mean"),
        ({"dropout": 1.0}, "--model.dropout 1.0"),
        ({"lr": 0.0}, "--model.lr"),
        ({"frozen_layers": -1}, "--model.renewed_layers, frozen_layers"),
        ({"renewed_layers": 3}, "--model.renewed_layers 3: it has no 3 layers"),
        ({"encoder": {"model_type": "nonesuch"}}, "--model.encoder: .*nonesuch"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)
