"""Measured claims about this package, each against a peer on the same machine in the same run; see README.md."""
