# SPDX-License-Identifier: MIT
"""Tests: perf."""
