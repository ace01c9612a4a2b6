"""A model check of the boot rules: every state that GRUB, userland, power cuts and faults reach."""
