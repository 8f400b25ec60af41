"""Toy project for the tests of `common`: classification of random points, trained in milliseconds."""
