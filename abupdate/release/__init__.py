"""What a release is and says of itself: versions, release.toml, tags, channels, fixups."""
