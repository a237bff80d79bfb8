"""Which tensor feeds what in a model, seen on a run of a copy."""
