"""Policy gradient: REINFORCE and what improves it, inside a LightningModule, on any gymnasium environment."""
