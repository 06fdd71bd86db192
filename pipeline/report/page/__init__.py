"""Results as one page, HTML or Markdown."""
