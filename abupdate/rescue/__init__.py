"""What the rescue system does: put slots back, try again what was good; and how it is replaced.

`rescue/` at the top has what makes a release a rescue system; docs/rescue.md tells of it all.
"""
