"""A project of one's own, begun from a capstone."""
