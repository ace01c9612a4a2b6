"""The privileged half of the local page: jobs, and what is told of the device, behind a socket.

The page asks by a few typed calls (contract.py) and never touches a disk itself. What takes long
is a job: a process of its own, the very command that a person would type.
"""
