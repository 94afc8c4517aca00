"""Making the book: execute the pages, normalise their outputs, render them, gather figures.

`make` calls ``python -m chatlib.book COMMAND``; nothing here is needed to take the course.
"""
