# SPDX-License-Identifier: MIT
"""What applications hand over, to have it again in the next kernel: by the kernel's live update, else by files."""
