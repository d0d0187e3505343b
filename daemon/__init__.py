"""The rrd daemon: one local process that owns Rerun log streams and everything they are sent to."""

__version__ = "0.1.0"
