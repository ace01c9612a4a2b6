"""What a release is, who signed it, and the file that carries it."""
