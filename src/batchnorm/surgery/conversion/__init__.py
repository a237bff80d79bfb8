"""Batch normalization of one kind turned into another.

`layers` says what a layer can become, and makes it so; `foreign` knows classes of other libraries.
`follow` sees which activation and which addition come after a layer, `swallow` takes them into it,
and `restore` gives them back.
"""
