"""The life of a run: build, fit, test, summary."""
