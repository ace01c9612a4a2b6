"""git as a store of root filesystems: commits in, commits out, and proof that they are equal."""
