"""What all tests share."""

import os

# before torch is imported: each core has a process that tests, and a second thread in each would make both wait for the other's
os.environ["OMP_NUM_THREADS"] = "1"
