# SPDX-License-Identifier: MIT
"""Tests: golden."""
