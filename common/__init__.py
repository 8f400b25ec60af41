"""What every capstone shares: the command line, the life of a run, data sources, callbacks, plots. Knows no capstone."""
