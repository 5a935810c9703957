# SPDX-License-Identifier: MIT
"""Tests: bus."""
