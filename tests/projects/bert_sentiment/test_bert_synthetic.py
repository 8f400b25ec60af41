"""Synthetic data: deterministic, without leakage, and out of reach of a bag of words."""

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from projects.bert_sentiment.synthetic import SPLIT_SIZES, make_splits


def test_the_sample_is_the_same_each_time_and_no_text_is_in_two_splits():
    splits = make_splits()
    assert make_splits() == splits and make_splits(1) != splits
    assert {name: len(split) for name, split in splits.items()} == SPLIT_SIZES
    every = [text for split in splits.values() for text in split.texts]
    assert len(set(every)) == len(every)
    assert all(sum(split.labels) * 2 == len(split) for split in splits.values())


def test_a_bag_of_words_is_at_chance():
    splits = make_splits()
    vectorizer = CountVectorizer(token_pattern=r"\S+")
    counts = vectorizer.fit_transform(splits["train"].texts)
    model = LogisticRegression(C=0.1, max_iter=500).fit(counts, splits["train"].labels)
    held_out = splits["val"].texts + splits["test"].texts
    accuracy = np.mean(model.predict(vectorizer.transform(held_out)) == splits["val"].labels + splits["test"].labels)
    assert abs(accuracy - 0.5) < 0.05, "a standard error is 1.6 points"
