"""Hyperparameter search with Optuna: its trials are runs of a capstone."""
