"""What all tests share."""

import os

# before torch is imported: each core has a process that tests, and more threads would only make them wait for each other
os.environ["OMP_NUM_THREADS"] = "1"
