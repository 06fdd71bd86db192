"""Results as text: tables for the terminal, Markdown, JUnit."""
