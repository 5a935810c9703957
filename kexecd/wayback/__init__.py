# SPDX-License-Identifier: MIT
"""The way back: what a new boot has to show, what happens if it does not, and what is remembered of it."""
