"""What a publisher does: commit, sign, promote, compare."""
