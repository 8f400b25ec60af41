"""CIFAR-10 image classification: a convolutional network trained at record speed inside a LightningModule."""
