"""What is measured against what: ratios of things run side by side with the real SDK, in alternating runs."""
