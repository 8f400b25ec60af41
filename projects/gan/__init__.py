"""GAN: two networks that train each other, and measures of what came of it, inside a LightningModule."""
