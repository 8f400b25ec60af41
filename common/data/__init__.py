"""Data: sources, order and sharding of batches, labeled images."""
