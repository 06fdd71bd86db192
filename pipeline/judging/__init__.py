"""Is it right? Parity with torch, accuracy on labelled images, and where the error comes from."""
