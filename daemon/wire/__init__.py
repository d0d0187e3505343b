"""Formats and protocols, sans-IO: bytes in, events out. Nothing in here knows of trio, sockets or files."""
