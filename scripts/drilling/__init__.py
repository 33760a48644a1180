"""Drills of the alerts: the real stack, real causes, the runbooks' own commands; and mutations of the rules."""
