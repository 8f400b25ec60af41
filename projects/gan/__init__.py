"""GAN: two networks that train each other, and metrics of their samples, inside a LightningModule."""
