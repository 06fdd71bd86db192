"""Where weights come from: the zoo's, a checkpoint, a module's own."""
