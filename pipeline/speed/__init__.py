"""Is it fast? Measuring cells, comparing them with what was, finding better settings."""
