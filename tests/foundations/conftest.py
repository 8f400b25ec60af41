"""Shared by the tests of the course."""

from foundations.sandbox import PRELOADED

# device "meta" imports it, which takes a second: once for all checks, not once for each
PRELOADED.append("torch._dynamo")
