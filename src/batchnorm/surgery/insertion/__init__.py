"""Normalizations put into a network that has none.

`roles`, `ways` and `sites` say what the layers of a watched model are for; `hidden`, `activated`
and `inputs` plan with `places` and `channels`, `stages` and `walk` where no example was given.
`apply` carries a plan out, `calibrate` lets it change nothing.
"""
