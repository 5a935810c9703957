# SPDX-License-Identifier: MIT
"""Tests that restart a real Debian guest under QEMU."""
