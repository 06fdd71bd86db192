"""What a box says of itself while it serves: replays of goldens, live inputs against ranges."""
