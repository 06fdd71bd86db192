"""What this machine is: its runners, and what would make numbers or installs wrong."""
