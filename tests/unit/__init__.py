# SPDX-License-Identifier: MIT
"""Tests: unit."""
