"""Normalizations taken into the layers beside them.

`behind` and `ahead` say which layers a normalization can go into, `obstacles` what forbids it;
`absorb` computes the weights, `draft` puts them into a copy.
"""
