"""What the results say, gathered from a workspace and rendered."""
