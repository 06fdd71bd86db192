"""Formulas: distances, intervals, paired tests, limits. Pure numpy and scipy."""
