"""Callbacks that capstones share, one file each."""
