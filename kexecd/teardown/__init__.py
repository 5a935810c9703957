# SPDX-License-Identifier: MIT
"""The steps of the way down, each of which describes itself and runs itself."""
