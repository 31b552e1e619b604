"""The ``cg`` command."""
