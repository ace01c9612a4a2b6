"""Every write of an update's life, cut: recorded in a virtual machine, replayed, booted by GRUB.

`releases` makes releases of two megabytes, `record` lets a device live through
updates while QEMU keeps all that reaches its disk, `states` gives what a cut
may leave of it, `judge` boots each and looks at it. `python -m tests.cuts` does all.
"""
