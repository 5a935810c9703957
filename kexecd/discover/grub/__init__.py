# SPDX-License-Identifier: MIT
"""GRUB's configuration, read by running it: the script language as far as grub-mkconfig and people write it.

text -> `lexer` -> `syntax` -> `interpreter` with its `commands` -> `menu` -> `source.find`, which is what others call.
`filesystems` says where GRUB's paths are in our tree, `grubenv` reads the environment block.
"""
