"""Where releases come from: what a SOURCE names, opened. Nothing here is trusted."""
