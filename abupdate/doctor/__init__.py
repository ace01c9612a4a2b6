"""What is wrong with a device: looking for it, and mending what can be mended here."""
