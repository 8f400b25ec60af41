"""Training run: build, fit, test, summarize."""
