"""Where streams go out. A sink only reads logs, at its own pace; it never holds up an ingest or another sink."""
