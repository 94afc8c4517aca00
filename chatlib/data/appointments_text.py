"""The words of the calendar's assistant: appointments, requests, answers and word classes.

Kept apart from `appointments.py` so that the rules there can be read without the vocabulary.
"""

from __future__ import annotations

APPOINTMENTS = """
ballet bowling breakfast karate chess choir dancing dentist dinner doctor exam football garage
golf gym haircut hairdresser hockey interview judo lecture library lunch massage museum opera
optician picnic pilates plumber rehearsal rowing sailing seminar swimming tennis theatre therapy
violin wedding workshop yoga
""".split()
HELD_OUT_APPOINTMENTS = (
    "archery ceramics cinema concert cricket fencing physio surgery tutoring vet".split()
)

# -------------------------------------------------------------------- requests
# {on} is "on Friday", "today" or "tomorrow"; {bare} the same without "on".
REQUESTS = {
    "add": (
        "Add {name} {on} at {hour}.",
        "Please put {name} {on} at {hour}.",
        "I have {name} {on} at {hour}, please note it.",
        "Book {name} {on} at {hour}, please.",
        "New appointment: {name} {on} at {hour}.",
    ),
    "move": (
        "Move {name} to {bare} at {hour}.",
        "Please move my {name} to {bare} at {hour}.",
        "Can you shift {name} to {bare} at {hour}?",
        "I want {name} {on} at {hour} instead.",
    ),
    "remove": (
        "Cancel {name}.",
        "Please remove {name}.",
        "I cannot go to {name}, take it out.",
        "Delete my {name}, please.",
    ),
    "list": (
        "What do I have {on}?",
        "What is planned {on}?",
        "Which appointments do I have {on}?",
        "Tell me what is {on}.",
    ),
    "free": (
        "Am I free {on} at {hour}?",
        "Do I have time {on} at {hour}?",
        "Is {hour} free {on}?",
    ),
    "when": (
        "When is {name}?",
        "On which day is {name}?",
        "When do I have {name}?",
    ),
    "together": (
        "How long are {name} and {other} together?",
        "How many minutes do {name} and {other} take?",
        "I go to {name} and {other}, how long is that?",
    ),
    "weeks": (
        "How long is {name} in {weeks} weeks?",
        "How many minutes of {name} are {weeks} weeks?",
    ),
    "out_of_scope": (
        "What is the weather in {city}?",
        "Who won the game?",
        "Can you write a poem?",
        "Which film should I watch?",
        "Call me a taxi to {city}.",
    ),
}
HELD_OUT_REQUESTS = {
    "add": ("There is {name} {on} at {hour}, put it in.", "Schedule {name} {on} at {hour}."),
    "move": ("Can {name} be {on} at {hour}?", "Change {name} to {bare} at {hour}."),
    "remove": ("I do not need {name} any more.", "{name} is off."),
    "list": ("Show me all {on}.", "Is there anything {on}?"),
    "free": ("Could I meet somebody {on} at {hour}?",),
    "when": ("Tell me the day and hour of {name}.",),
    "together": ("What do {name} and {other} add up to?",),
    "weeks": ("If I go to {name} for {weeks} weeks, how long is that?",),
    "out_of_scope": ("Do you know a good joke?", "Order a pizza from {city}."),
}

# --------------------------------------------------------------------- answers
# By what came out: "busy" is an hour asked about that is not free, "taken" one asked for.
ANSWERS = {
    "added": (
        "I added {name} on {day} at {hour}.",
        "{name} is on {day} at {hour} now.",
        "I put {name} on {day} at {hour}.",
    ),
    "moved": (
        "I moved {name} to {day} at {hour}.",
        "{name} is on {day} at {hour} now.",
    ),
    "removed": (
        "I removed {name} from {day}.",
        "{name} on {day} is cancelled.",
    ),
    "taken": (
        "{day} at {hour} is taken by {by}.",
        "on {day} at {hour} you already have {by}.",
    ),
    "listed": (
        "on {day} you have {entries}.",
        "there is {entries} on {day}.",
    ),
    "nothing": (
        "nothing is planned on {day}.",
        "you have nothing on {day}.",
    ),
    "free": (
        "you are free on {day} at {hour}.",
        "yes, {day} at {hour} is free.",
    ),
    "busy": (
        "you have {by} on {day} at {hour}.",
        "no, {day} at {hour} is taken by {by}.",
    ),
    "when": (
        "{name} is on {day} at {hour}.",
        "you have {name} on {day} at {hour}.",
    ),
    "counted": (
        "that is {total} minutes.",
        "it takes {total} minutes.",
    ),
    "out_of_scope": (
        "I can only help with the calendar.",
        "I cannot do that, I only know the calendar.",
    ),
}
REFUSALS = ("I cannot do that.", "I am not able to help with that.")
OPENINGS = ("of course.", "gladly.", "certainly.")
APOLOGIES = ("sorry.", "I am sorry.")
CLOSINGS = (
    "is there anything else?",
    "can I help with anything else?",
    "have a nice day.",
)
RUDE = (
    "you should know that.",
    "that is obvious.",
    "this is a waste of time.",
    "stop asking the same question.",
)
RAMBLES = (
    "a good plan saves a lot of time.",
    "many people forget such things.",
    "I keep all of it in one place.",
    "it is always good to plan ahead.",
    "the days go by so fast.",
)

# ---------------------------------------------------------------- word classes
# What the shop's dictionary lacks, or knows in another use.
CLASSES = {
    **dict.fromkeys([*APPOINTMENTS, *HELD_OUT_APPOINTMENTS], "NOUN"),
    **dict.fromkeys(
        "appointment appointments calendar minutes hour plan lot place".split(), "NOUN"
    ),
    **dict.fromkeys(
        "added moved removed cancelled taken planned saves forget put go".split(), "VERB"
    ),
    **dict.fromkeys("certainly gladly already ahead fast so together".split(), "ADV"),
    **{"such": "DET", "course": "NOUN", "weeks": "NOUN"},
}

# More of the English that a person writes as an assistant: what the judge's grammar knows besides
# the templates, so that a good answer in other words passes the fluency gate.
FLUENT = """
Your yoga is now on Friday at 10.
I have moved your dentist to Friday at 10.
I have added it for you.
Done, the dentist is in your calendar for Friday at 10.
The dentist is no longer in your calendar.
Yes, you are free then.
No, that hour is already taken.
I am afraid that Friday at 10 is not free, because you have yoga then.
You have no appointments on Friday.
There is nothing in your calendar on Friday.
You have two appointments on Friday: yoga at 10 and lunch at 14.
Your day is free.
It takes 75 minutes in all.
Together they take 75 minutes.
I could not find that in your calendar.
Is there anything else that I can do for you?
Would you like another hour?
You have lunch tomorrow at 12.
Tomorrow you have lunch at 12, and nothing else.
There is swimming at 10, and then chess at 14.
On Monday there is chess at 8 and dinner at 20.
Sorry, that hour is busy.
Sorry, this is already taken by your dinner.
Unfortunately you are not free at 10 on Sunday.
Chess is 30 minutes and dinner is 60 minutes, so that is 90 minutes.
In 3 weeks that makes 90 minutes of chess.
Your chess on Monday is now cancelled.
It is at 10 on Monday.
All done, chess is now at 10.
I have put chess on Monday at 10 for you.
"""
