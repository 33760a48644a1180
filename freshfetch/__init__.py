"""What Freshfetch gives to a user's own project: `freshfetch.pytest`, a pytest plugin that races job code."""
