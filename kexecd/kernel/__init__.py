# SPDX-License-Identifier: MIT
"""What the kernel offers, without policy: system calls, /proc, /sys, command lines and image formats."""
