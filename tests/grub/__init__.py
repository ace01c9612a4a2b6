"""The real GRUB and its real configuration, booted with a kernel that only tells its name."""
