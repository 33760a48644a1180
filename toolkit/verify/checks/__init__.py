"""The checklist: one file a check, in the order in which it is read."""
