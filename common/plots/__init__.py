"""Plots that capstones share; each function writes one PNG or GIF."""
