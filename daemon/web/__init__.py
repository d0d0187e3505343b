"""The web server: the viewer's page, the list of recordings, live data over WebSocket."""
