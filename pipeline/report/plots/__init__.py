"""Results as drawings, SVG."""
