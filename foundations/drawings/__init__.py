"""Drawings of the lessons, computed by torch."""
