"""Callbacks that capstones share, one per file."""
