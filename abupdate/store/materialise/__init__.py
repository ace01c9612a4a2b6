"""Commit → slot: the only code that changes the files of a slot.

`plan` and `audit` say what is to be done, `apply` does it: `removal`, `place`,
and `writers` for the bulk of the files.
"""
