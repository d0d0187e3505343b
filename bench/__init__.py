"""What is measured against what. Everything is a ratio of things run side by side with the real SDK, in alternating runs."""
