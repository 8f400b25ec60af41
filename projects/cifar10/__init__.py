"""CIFAR-10: a convolutional network trained at record speed inside a LightningModule."""
