"""Fine-tuning: loss, parameter groups, schedule and LoRA adapters, equal to those of torch and transformers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import nn
from transformers import get_linear_schedule_with_warmup

from common.errors import UserError
from common.nn.calibration import fit_temperature
from common.nn.dropout import Dropout
from projects.bert_sentiment.data import Batch
from projects.bert_sentiment.lora import merge_lora
from projects.bert_sentiment.module import BertSentimentModule
from projects.bert_sentiment.networks import SequenceClassifier
from projects.bert_sentiment.optim import parameter_groups
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
    logits = module.net.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    expected = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    torch.testing.assert_close(module.compute_loss(batch), expected)


def test_class_weights_are_torchs(batch):
    weight = torch.tensor([2.0, 1.0, 0.5])
    weights = weight[batch.labels] / weight[batch.labels].sum()
    module = make()
    expected = F.cross_entropy(module(batch.input_ids, batch.attention_mask), batch.labels, weight=weight)
    torch.testing.assert_close(module.compute_loss(batch._replace(weights=weights)), expected)


def test_min_loss_is_the_entropy_of_smoothed_targets():
    module = make(label_smoothing=0.2)
    target = torch.full((3,), 0.2 / 3)
    target[0] += 0.8
    assert module.min_loss == pytest.approx(float(-(target * target.log()).sum()))
    assert make().min_loss == 0.0


def test_the_temperature_is_fitted_on_validation_and_measured_at_test(batch, monkeypatch):
    module, logged = make(), {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.__setitem__(name, value))
    module.eval_outputs = {i: (row, i % 3) for i, row in enumerate((5 * torch.randn(60, 3)).tolist())}
    logits, labels, _ = module.stack_outputs()
    monkeypatch.setattr(module, "all_gather_outputs", lambda: (logits, labels, []))
    module.on_validation_epoch_end()
    assert module.state_dict()["temperature"] == fit_temperature(logits, labels) > 1.5
    assert "val/calibration_error_scaled" not in logged, "of the texts that the temperature was fitted to"
    assert "val/calibration_error" in logged
    torch.testing.assert_close(module.test_step(batch, 0)["logits"] * module.temperature, module.eval_step(batch))


def test_gradient_checkpointing_leaves_gradients_equal(batch):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        module = make(gradient_checkpointing=checkpointing).train()
        module.compute_loss(batch).backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_parameter_has_a_gradient(batch, pooling):
    module = make(pooling=pooling)
    module.compute_loss(batch).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == [], "else DDP would wait for it"


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_dropout_acts_in_every_layer_and_in_the_head(batch, pooling, monkeypatch):
    module = make(pooling=pooling, dropout=None).train()
    assert {layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)} == {0.1}, "the architecture's own"
    called = []
    monkeypatch.setattr(Dropout, "forward", lambda self, x: called.append(self) or 0 * x)
    logits = module(batch.input_ids, batch.attention_mask)
    assert len(called) == 6, "embeddings, two in each of two layers, the head"
    bias = (module.net.model if pooling == "cls" else module.net).classifier.bias
    torch.testing.assert_close(logits, bias.expand(4, 3))


# the optimizer


def test_layer_wise_learning_rate_decay_and_no_weight_decay_of_vectors():
    net = SequenceClassifier(new_model(ENCODER, ["no", "yes"]))
    groups = parameter_groups(net, 2, lr=1.0, layer_decay=0.5, weight_decay=0.1)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    expected = {"layer.1.": 1.0, "layer.0.": 0.5, "embeddings": 0.25}
    for name, parameter in net.named_parameters():
        lr = next((value for part, value in expected.items() if part in name), 1.0)  # the head, and the pooler with it
        assert found[id(parameter)] == (lr, 0.1 if parameter.dim() > 1 else 0.0), name


def fit(module: BertSentimentModule, batch: Batch, max_epochs: int, *callbacks: Callback) -> None:
    """Trains on 20 batches an epoch."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=max_epochs, accelerator="cpu", callbacks=list(callbacks), **off)
    trainer.fit(module, torch.utils.data.DataLoader([batch] * 20, batch_size=None))


def test_the_schedule_is_transformers(batch):
    class Record(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            found.append(trainer.optimizers[0].param_groups[0]["lr"])

    found, expected = [], []
    fit(make(lr=0.1, warmup=0.1, layer_decay=1.0), batch, 1, Record())
    reference_optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = get_linear_schedule_with_warmup(reference_optimizer, 2, 20)
    for _ in range(20):
        expected.append(reference.get_last_lr()[0])
        reference_optimizer.step(), reference.step()
    assert found[2:] == pytest.approx(expected[2:])
    assert found[:2] == pytest.approx(expected[1:3]), "ours begins one step later: a step at learning rate 0 learns nothing"


def test_a_run_without_end_is_refused(batch):
    with pytest.raises(UserError, match="--max_epochs -1"):
        fit(make(), batch, -1)


# LoRA


@pytest.fixture
def lora(batch):
    pytest.importorskip("peft")
    module = make(lora_rank=3)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)  # they begin at zero, so that nothing changes
    return module


def test_adapters_start_at_zero_and_freeze_the_encoder(batch):
    pytest.importorskip("peft")
    torch.manual_seed(2)
    plain = make().eval()
    torch.manual_seed(2)
    module = make(lora_rank=3).eval()
    torch.testing.assert_close(module(batch.input_ids, batch.attention_mask), plain(batch.input_ids, batch.attention_mask))
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name or "classifier" in name or "pooler" in name for name in trainable)
    assert any("classifier" in name for name in trainable) and any("pooler" in name for name in trainable)
    assert sum("lora_A" in name for name in trainable) == 2 * 6, "six linear layers in each of two"


def test_merged_adapters_compute_the_same(batch, lora):
    lora.eval()
    before = lora(batch.input_ids, batch.attention_mask)
    plain = make().eval()
    merge_lora(lora.net)
    torch.testing.assert_close(lora(batch.input_ids, batch.attention_mask), before, rtol=1e-4, atol=1e-5)
    assert set(lora.net.state_dict()) == set(plain.net.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reinit_layers": 3}, "--model.reinit_layers 3: the encoder has no 3 layers"),
        ({"encoder": {"model_type": "nonesuch"}}, "--model.encoder: .*nonesuch"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)
