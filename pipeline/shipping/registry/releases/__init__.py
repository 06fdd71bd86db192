"""Which bundle of a repository is the newest: signed, and believed."""
