"""Version of the suite: pyproject.toml has it from here, and every checkpoint records it."""

VERSION = "0.2.0"
