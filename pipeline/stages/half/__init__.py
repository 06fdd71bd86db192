"""The variant fp16: float16 inside, float32 at its ends, and what can't be float16 left alone."""
