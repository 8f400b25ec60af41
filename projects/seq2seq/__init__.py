"""Sequence to sequence: attention, a Transformer, and a beam search inside a LightningModule."""
