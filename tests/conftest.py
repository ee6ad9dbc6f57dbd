"""What holds for all tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes with all threads each would wait for one another. Set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
