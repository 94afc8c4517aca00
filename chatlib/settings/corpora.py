"""The corpora that the book writes itself: what a source calls each, and its module in `data`.

A source with one of these names is a stream of records that somebody knows the truth about. A
further corpus is a module with what `chatlib.data.corpora.Corpus` asks for, and a line here.
"""

CORPORA = {
    "shop": "shop",
    "shop-zh": "chinese",
    "tutor": "tutor",
    "calendar": "appointments",
    "personal": "personal",
    "pictures": "pictures",
}
