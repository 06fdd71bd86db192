"""From a workspace to a bundle: what goes in, what is said of it, and its layouts."""
