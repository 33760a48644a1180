"""`python -m toolkit.cli`, the same as the `toolkit` script."""

from toolkit.cli import main

main()
