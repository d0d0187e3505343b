"""Finding, telling apart and starting Rerun viewers."""
