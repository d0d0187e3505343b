"""The `rrd` command: thin verbs over the daemon's Unix socket. No trio in here."""
