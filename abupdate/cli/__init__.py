"""The command `abupdate`."""
