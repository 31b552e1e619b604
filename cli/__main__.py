"""``python -m cg.cli``."""

from cg.cli.main import main

main()
