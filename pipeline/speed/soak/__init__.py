"""Does it last? One cell run for hours: what it leaks, and when it slows down."""
