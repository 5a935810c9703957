# SPDX-License-Identifier: MIT
"""kexecctl: one small module for each group of commands."""
