"""The pytest plugin; see runbooks/rehearse.md."""
