"""The words of the tutor: names, questions, hints, solutions, verdicts and manners.

Kept apart from `tutor.py` so that the rules there can be read without the wording. ``{sum}`` is
the sum that is asked ("14 + 9"), ``{step}`` the first step of a trick, ``{rest}`` the equation
that ends in the result.
"""

from __future__ import annotations

NAMES = """
Ada Alan Ana Anna Ben Carla Clara Daniel David Diego Dora Elena Emma Erik Eva Felix Grace Hana
Hugo Ida Iris Ivan Jade Jana Karim Lara Lena Leo Lina Luca Mara Marco Maya Mina Nina Noah Omar
Otto Paula Rita Rosa Samir Sara Tara Theo Tom Vera Wanda Yara
""".split()
HELD_OUT_NAMES = "Adele Anton Berta Cora Edith Emil Gustav Klara Oskar Pablo Renata Simon".split()
THINGS = "pens books cards coins eggs stamps shells nuts balls plums".split()
HOLDERS = "bags boxes bowls rows".split()

# ----------------------------------------------------------------------- pupils
# " // " separates the pupil's two messages; the tutor's line between them is of `TRY_FIRST`.
QUESTIONS = {
    "answer": (
        "What is {sum}?",
        "How much is {sum}?",
        "Help me with {sum}.",
        "Can you do {sum} with me?",
        "I cannot do {sum}.",
        "What is {sum}? // Just tell me.",
        "How much is {sum}? // I do not know.",
    ),
    "more": (
        "I have {a} {holders} of {b} {things} and {c} more. How many {things}?",
        "There are {a} {holders} with {b} {things}, and {c} {things} on the table. How many?",
        "I buy {a} {holders} of {b} {things} and find {c}. How many {things} do I have?",
    ),
    "fewer": (
        "I have {a} {holders} of {b} {things} and lose {c}. How many {things} are left?",
        "There are {a} {holders} with {b} {things}. I take {c} out. How many are left?",
        "I buy {a} {holders} of {b} {things} and give {c} away. How many do I have?",
    ),
    "check": (
        "Is {sum} = {claim} right?",
        "I say {sum} = {claim}. Is it right?",
        "I got {claim} for {sum}.",
        "Please check {sum} = {claim}.",
        "What is {sum}? // I got {claim}.",
        "Help me with {sum}. // Is it {claim}?",
    ),
}
HELD_OUT_QUESTIONS = {
    "answer": ("I am stuck on {sum}.", "Do you know {sum}?", "I need {sum}. // Please tell me."),
    "more": ("We find {a} {holders} of {b} {things} and {c} more. How many are there?",),
    "fewer": ("We find {a} {holders} of {b} {things} and {c} break. How many are left?",),
    "check": ("Does {sum} make {claim}?", "Do you know {sum}? // I think {claim}."),
}
TRY_FIRST = ("Try it first.", "What do you think?")

# ------------------------------------------------------------------------ answers
# Jumps on the number line, by task; a step of any other trick is an equation.
JUMPS = {
    "add": "start at {high} and jump {low} up",
    "sub": "start at {a} and jump {b} back",
    "mul": "make {a} jumps of {b}",
    "word": "make {a} jumps of {b}",
}
HINTS = {
    "sum": ("first do {step}.", "start with {step}.", "the first step is {step}."),
    "jump": ("{step}.", "on the number line, {step}."),
}
SOLUTIONS = {
    "sum": ("{step}, then {rest}.", "first {step}, so {rest}."),
    "jump": ("{step}, then {rest}.", "{step}, so {rest}."),
}
EMPTY_HINTS = ("think about it.", "try it again.", "take your time.")
BARE_RESULTS = ("it is {result}.", "the answer is {result}.")
RIGHT = ("yes, that is right.", "{claim} is right.", "yes, it is {claim}.")
WRONG = {
    "hint": (
        "no, look at the {place} again.",
        "that is wrong, the {place} are not right.",
        "not yet, check the {place}.",
    ),
    "told": (
        "no, look at the {place}: {rest}.",
        "that is wrong in the {place}, {rest}.",
        "not right, the {place} are wrong, {rest}.",
    ),
    "bare": ("no.", "that is wrong.", "that is not right."),
}
ADDRESSES = ("{name},", "hi {name},")
ENCOURAGEMENTS = ("You can do it!", "Keep going!", "Good work!", "You are getting better.")
RUDE = ("That is too easy.", "You should know that.", "Do not be so lazy.", "Not you again.")
RAMBLES = (
    "Numbers are fun and they are all around us.",
    "Many pupils ask me for this kind of help.",
    "My cat likes to sit on my books.",
    "I learned this when I was small.",
)

# More of what a person writes in such a place: what the judge knows besides the templates, so
# that a good answer in other words passes the gate. A number is #, the pupil's name @.
FLUENT = """
Hello @, begin with # + # = #.
Let us begin with # + #.
Try # + # first, that makes #.
First work out # * # and then add # to it.
First find # * #.
Use the number line: start at # and jump # up.
You can start at # and make # jumps of # on the number line.
You start at #, jump # up and land on #.
@, the result is #, because # + # = # and # + # = #.
So # + # is #.
That makes #.
The answer is #.
Well done, @, that is correct.
Yes, @, # + # = # is correct.
Your answer is right.
Your answer is wrong, look at the ones.
Sorry, @, that is not quite right, check the tens again.
No, # + # is #, not #.
Almost, but the ones are wrong.
I cannot tell you the answer, but I can give you a hint.
I am not allowed to tell you, but start with # + #.
What do you get for # + #?
I do not know.
Good luck, @!
"""
