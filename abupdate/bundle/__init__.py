"""How a release travels: bundles, and the quarantine in which what comes in is checked."""
