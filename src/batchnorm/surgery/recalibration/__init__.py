"""Running statistics measured again."""
