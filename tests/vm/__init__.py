"""A virtual machine with a kernel of its own, and the tests that need one."""

import sys
from pathlib import Path

# How trees are built and containers driven is the same as in the machines of systemd-nspawn.
sys.path.append(str(Path(__file__).resolve().parents[1] / "machine"))
