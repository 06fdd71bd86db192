"""What the float model becomes besides int8: other formats, and the variant fp16."""
