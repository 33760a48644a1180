"""verify-deploy: is this deployment good? Checks, their evidence, and what becomes of it."""
