# SPDX-License-Identifier: MIT
"""GRUB's environment block: https://www.gnu.org/software/grub/manual/grub/html_node/Environment-block.html.

One signature line, then NAME=VALUE lines, then `#` up to (usually) 1024 bytes; in a value, a backslash takes the next
character as it is, a line break too. Only read; nothing of ours writes it.
"""

from __future__ import annotations

import re

SIGNATURE = "# GRUB Environment Block\n"

_VARIABLE = re.compile(r"([^=]*)=((?:[^\\\n]++|\\.)*+)\n", re.DOTALL)


def parse(text: str) -> dict[str, str] | None:
    """The variables, in their order; None if it is no environment block, from which GRUB takes nothing either."""
    if not text.startswith(SIGNATURE):
        return None
    values: dict[str, str] = {}
    at = len(SIGNATURE)
    while at < len(text):
        if text[at] == "#":  # filling, and the comment that tells people not to edit the file
            end = text.find("\n", at)
            at = len(text) if end < 0 else end + 1
            continue
        match = _VARIABLE.match(text, at)
        if match is None:
            break
        values[match[1]] = re.sub(r"\\(.)", r"\1", match[2], flags=re.DOTALL)
        at = match.end()
    return values
