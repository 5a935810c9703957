# SPDX-License-Identifier: MIT
"""Tests of what goes into kernel memory, against a kernel that answers as scripted (tests/unit/kernel_tree.py)."""
