"""What Freshfetch gives to a user's own project: the pytest plugin."""
