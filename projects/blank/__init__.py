"""Regression from tabular data: the smallest complete project, and the template to begin one's own from."""
