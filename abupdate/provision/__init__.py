"""The first install: a whole disk for a new device, or an image of one."""
