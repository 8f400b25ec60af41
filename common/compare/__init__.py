"""Comparison of finished runs: records, groups over seeds, tables, curves, reports. Needs no torch."""
