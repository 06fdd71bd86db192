"""What is on the disk: the workspace and its manifest, goldens, data sets, files written whole."""
