"""A receipt as Markdown, JUnit's XML and one HTML page."""
