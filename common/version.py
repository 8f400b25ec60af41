"""Version of the suite: pyproject.toml has it from here, and every checkpoint records it."""

VERSION = "0.1.0"
