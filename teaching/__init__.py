"""What the teaching pages are made of: measurements, figures, and the numbers in the text.

    python -m teaching measure [NAME...]   # writes docs/data/NAME.json: minutes
    python -m teaching figures             # draws docs/figures, writes numbers into pages: seconds
    python -m teaching check               # says what of the two is not as the records are

`docs/data/study/results.json` is the record of `make study`; the other records are made here.
Nothing of the package imports this.
"""
