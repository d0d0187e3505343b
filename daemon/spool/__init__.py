"""Logs on disk: synchronous, no trio. The only index that is believed is the log itself."""
