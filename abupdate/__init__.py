"""abupdate: A/B updates of whole Linux systems that boot with GRUB."""

__version__ = "0.1.0"
