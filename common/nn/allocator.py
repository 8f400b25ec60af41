"""Memory allocator settings of the C library."""

from __future__ import annotations

import ctypes
import os
import sys


def keep_freed_memory() -> bool:
    """Makes glibc's malloc keep freed memory for the next step instead of returning it to the system; True if it did.

    By default every large tensor is mapped and unmapped anew, and each of its pages is cleared by a page fault: about a
    third of a training step of large feature maps on a CPU. The price is that the process holds on to its peak memory.
    """
    if not sys.platform.startswith("linux") or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return False
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # from malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(m_mmap_max, 0), mallopt(m_trim_threshold, 2**31 - 1), mallopt(m_top_pad, 2**28)])
