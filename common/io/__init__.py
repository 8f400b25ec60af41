"""Input and output: the run folder, checkpoints, loggers, ranks."""
