"""What was asked for: flags, environment and ``edgepipe.toml``, merged and checked."""
