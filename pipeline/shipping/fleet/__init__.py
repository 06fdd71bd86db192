"""A release onto many boxes: waves, their gate, the journal."""
