"""Is this boot healthy? Checks that look and change nothing; what follows is `update`'s."""
