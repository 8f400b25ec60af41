"""Shared by all tests."""

import os

# before torch is imported: each core runs one test process, and more threads would only wait for each other
os.environ["OMP_NUM_THREADS"] = "1"
