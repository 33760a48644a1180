"""Mutants of the image job."""

from toolkit.rehearse.words import Mutant

MUTANTS: tuple[Mutant, ...] = ()
