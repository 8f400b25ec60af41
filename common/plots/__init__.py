"""Plots that capstones share; each function draws one PNG."""
