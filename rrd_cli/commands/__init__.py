"""One file a verb, named as the daemon's handler for it."""
