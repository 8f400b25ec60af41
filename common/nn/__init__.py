"""Shared functions of tensors: optimizers, losses, dropout, devices and precision."""
