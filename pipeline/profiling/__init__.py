"""Where the time goes: one cell by operator and by layer, against what the machine can do."""
