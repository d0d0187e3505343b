"""The Unix socket: every verb that a client can say, one handler a verb."""
