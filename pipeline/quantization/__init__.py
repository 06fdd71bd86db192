"""How int8 comes about: ranges, scales, corrected biases, as small steps on a graph."""
