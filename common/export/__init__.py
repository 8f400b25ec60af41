"""Export of a checkpoint to a folder that other programs load: weights, configuration, card, an engine's format."""
