# SPDX-License-Identifier: MIT
"""Everything that proves kexecd, from pure functions to whole virtual machines."""
