"""Functions of tensors and devices: optimizers, losses, dropout, precision, parallel inference. Needs torch alone."""
