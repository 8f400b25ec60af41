"""Demo of all capstones, `python -m projects.demo`: the only code that knows them all."""
