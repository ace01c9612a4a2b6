"""The owner's changes in /etc, carried onto another release: trees, three ways, and overlays."""
