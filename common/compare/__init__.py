"""Finished runs side by side: read, grouped over seeds, and shown as a table, curves or a page. Needs no torch."""
