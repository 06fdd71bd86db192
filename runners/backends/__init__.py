"""The runners: one library each, imported when it is used."""
