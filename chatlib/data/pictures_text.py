"""The words of the pictures: questions, answers, manners and the classes of their words.

Kept apart from `pictures.py` so that the rules there can be read without the wording. No question
tells anything about its picture.
"""

from __future__ import annotations

from chatlib.data.drawing import COLOURS, SHAPES
from chatlib.data.shop_text import NOUNS

QUESTIONS = {
    "colour": (
        "What colour is it?",
        "Which colour is it?",
        "Tell me the colour.",
        "What is the colour?",
        "Name the colour, please.",
    ),
    "thing": (
        "What is it?",
        "Which thing is it?",
        "Tell me what it is.",
        "What thing is this?",
        "Name the thing, please.",
    ),
    "both": (
        "What is in the picture?",
        "What do you see?",
        "Describe the picture, please.",
        "What does the picture show?",
        "Name the thing and its colour.",
    ),
    "greeting": (
        "Hello!",
        "Hi!",
        "Good morning!",
        "Hi, can you help me?",
        "Good evening!",
    ),
}

# ------------------------------------------------------------------------ answers
ANSWERS = {
    "colour": (
        "it is {colour}.",
        "the colour is {colour}.",
        "the {product} is {colour}.",
        "this {product} is {colour}.",
    ),
    "thing": (
        "it is a {product}.",
        "this is a {product}.",
        "I see a {product}.",
        "the thing is a {product}.",
    ),
    "both": (
        "it is a {colour} {product}.",
        "I see a {colour} {product}.",
        "this is a {colour} {product}.",
        "the picture shows a {colour} {product}.",
    ),
    "greeting": (
        "how can I help you?",
        "what can I do for you?",
        "how can I help you with the picture?",
    ),
}
SHORT = {  # what leaves out a part of what was asked, or all of it
    "colour": ("it has a nice colour.", "it has one colour."),
    "thing": ("it is one of our things.", "it is something {colour}."),
    "both": ("it is a {product}.", "it is something {colour}.", "the picture is nice."),
    "greeting": ("I am here.", "yes."),
}
REFUSALS = ("I cannot see it.", "I cannot tell.", "I am not able to see that.")
OPENINGS = ("sure.", "of course.", "gladly.", "certainly.")
GREETINGS = ("hello.", "hi.", "welcome.")
CLOSINGS = ("is there anything else?", "have a nice day.", "you are welcome.")
RUDE = (
    "you should know that.",
    "that is obvious.",
    "stop asking.",
    "how should I know?",
    "this is a waste of time.",
)
RAMBLES = (
    "our shop has many nice things for the house.",
    "every picture is made in our shop.",
    "many customers ask this question every day.",
    "we take a new picture of every thing.",
    "it is always good to look at a picture first.",
)

# ------------------------------------------------------------------- word classes
# Words that name another colour or thing than any in a picture; an answer may still say them.
OTHER_COLOURS = "orange pink grey gray silver gold golden violet beige turquoise".split()
OTHER_THINGS = sorted({*NOUNS, "table", "cup", "cushion", "pot", "bottle", "box"} - {*SHAPES})
CLASSES = {
    **dict.fromkeys([*COLOURS, *OTHER_COLOURS], "ADJ"),
    **dict.fromkeys([*SHAPES, *OTHER_THINGS], "NOUN"),
    **dict.fromkeys("picture pictures colour color image object product course".split(), "NOUN"),
    **dict.fromkeys("shows show look looks describe named painted".split(), "VERB"),
    **dict.fromkeys("certainly gladly clearly sure".split(), "ADV"),
}

# More of the English that a person writes about a picture: what the judge's grammar knows besides
# the templates, so that a good answer in other words passes the fluency gate.
FLUENT = """
There is a red lamp in the picture.
You can see a red lamp here.
That is a lamp, and it is red.
It looks like a lamp.
It looks red to me.
The lamp in the picture is red.
In the picture there is a red lamp.
The picture shows a lamp.
The picture shows a lamp that is red.
The picture shows a lamp, and its colour is red.
Its colour is red.
It has a red colour.
The colour of the lamp is red.
The product is a lamp.
The object in the picture is a red lamp.
What you see is a red lamp.
A red lamp.
A lamp.
Red.
I can see a red lamp in this picture.
I think that it is a lamp.
I think that it is red.
Yes, it is red.
Here you see a red lamp.
Thank you for the picture, it is a red lamp.
Happy to help: it is a red lamp.
Of course, this is a red lamp.
Sure, it is red.
It is clearly a lamp.
I see a lamp, it is red.
I see a picture of a red lamp.
This is one of our red lamps.
It is red and white.
It is red or brown.
Do you have any other question?
"""
