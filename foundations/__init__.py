"""Foundations: the course from tensors to the capstones, with exercises that check themselves."""
