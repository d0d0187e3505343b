"""Where streams come in. An ingest only appends to a log; it never waits for an output."""
