"""What each command does, as functions; ``edgepipe.pipeline`` has them all."""
