"""Metrics, calibration and temperature scaling: equal to scikit-learn's, and to sums and searches by hand."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from projects.bert_sentiment.metrics import accuracy_by_length, classification_metrics


def test_loss_accuracy_and_f1_are_sklearns():
    logits, labels = torch.randn(200, 3), torch.randint(3, (200,))
    found = classification_metrics(logits, labels)
    predicted = logits.argmax(1)
    assert found["loss"] == pytest.approx(log_loss(labels, logits.double().softmax(1), labels=[0, 1, 2]))
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    two = classification_metrics(logits[:, :2], labels % 2)
    assert two["f1"] == pytest.approx(f1_score(labels % 2, logits[:, :2].argmax(1)))


def test_calibration_error_by_hand():
    logits, labels = 3 * torch.randn(500, 2), torch.randint(2, (500,))
    for divisor, name in [(1.0, "calibration_error"), (4.0, "calibration_error_scaled")]:
        confidence, predicted = (logits / divisor).softmax(1).max(1)
        bins = torch.bucketize(confidence, torch.linspace(0, 1, 16)[1:-1], right=False)
        gaps = [
            ((predicted == labels)[bins == b].float().mean() - confidence[bins == b].mean()).abs()
            * (bins == b).float().mean()
            for b in bins.unique()
        ]
        assert classification_metrics(logits, labels, 4.0)[name] == pytest.approx(float(sum(gaps)), abs=1e-5)


def test_accuracy_by_length_by_hand():
    texts = ["one", "one two three four five", "1 2 3 4 5 6", " ".join("a" * 41)]
    found = accuracy_by_length(texts, torch.tensor([True, False, True, True]))
    assert found == {"1-5": (0.5, 2), "6-10": (1.0, 1), "41+": (1.0, 1)}
