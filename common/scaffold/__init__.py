"""Scaffold: a new project from an existing one."""
