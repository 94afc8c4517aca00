"""The words of the shop: names, products, questions, answers and the classes of their words.

Kept apart from `shop.py` so that the rules there can be read without the vocabulary.
The markup is described in `shop.py`.
"""

from __future__ import annotations

NAMES = """
Ada Alan Alice Amara Ana Andre Anna Aria Ben Bianca Boris Carla Carlos Celia Chloé Clara Daniel
David Diego Dora Edgar Elena Elif Emma Erik Eva Farid Felix Fiona Gita Grace Hana Hannah Hugo Ida
Igor Ines Iris Ivan Jade Jakob Jana Jonas José Judith Julia Karim Kira Lara Lena Leo Lina Louis
Luca Lucia Mara Marco Maria Max Maya Milan Mina Nadia Nina Noah Nora Olga Omar Otto Paul Paula
Petra Priya Rafael Rita Rosa Samir Sara Sofia Stefan Tara Theo Tom Vera Victor Wanda Yara Yusuf Zoë
""".split()
HELD_OUT_NAMES = """
Adele Anton Berta Cora Dario Edith Emil Frida Gustav Helena Jasper Klara Laila Marta Nils Oskar
Pablo Renata Simon Tamara
""".split()
SURNAMES = "Hill Stone Brook Marsh Wood Field Ford Lake Moor Glen Dale Ridge".split()
CITIES = "Berlin Lima Oslo Cairo Delhi Quito Turin Lagos".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
STATUSES = ("shipped", "packed", "delayed", "paid", "cancelled", "ready")
ADJECTIVES = "black red blue green white yellow silver brown small large steel wooden".split()
NOUNS = """
toaster kettle lamp radio blender mixer heater fan clock camera printer chair desk mirror shelf
vase pan bowl mug basket blanket pillow ladder drill
""".split()

# -------------------------------------------------------------------- customers
# " // " separates the customer's two messages of a dialogue in which the order was left out.
QUESTIONS = {
    "order_status": (
        "Where is my order [ORDER|{order}]?",
        "Can you tell me where order [ORDER|{order}] is?",
        "I am waiting for order [ORDER|{order}].",
        "What about order [ORDER|{order}]?",
        "When does order [ORDER|{order}] arrive?",
        "Please check order [ORDER|{order}].",
    ),
    "order_two_turns": (
        "Where is my order? // It is order [ORDER|{order}].",
        "I am waiting for my order. // The number is [ORDER|{order}].",
        "Please check my order. // I mean number [ORDER|{order}].",
    ),
    "refund": (
        "Can I return^VERB the [PRODUCT|{product}]?",
        "How long can I return^VERB my order?",
        "I do not like the [PRODUCT|{product}]. Can I send it back?",
        "Do I get my money back?",
    ),
    "shipping": (
        "How much is shipping^NOUN?",
        "What does delivery cost^VERB?",
        "How long does shipping^NOUN take and what does it cost^VERB?",
        "Do you ship^VERB to [CITY|{city}]?",
    ),
    "hours": (
        "When are you open^ADJ?",
        "What are your opening hours?",
        "Can I visit the shop today?",
        "Is the shop open^ADJ now?",
    ),
    "product": (
        "How much is the [PRODUCT|{product}]?",
        "What does the [PRODUCT|{product}] cost^VERB?",
        "I want to buy the [PRODUCT|{product}].",
        "Do you sell a [PRODUCT|{product}]?",
    ),
    "complaint": (
        "My [PRODUCT|{product}] is broken.",
        "The [PRODUCT|{product}] arrived broken. This is bad.",
        "The shop sent a broken [PRODUCT|{product}].",
        "I am not happy with the [PRODUCT|{product}].",
    ),
    "greeting": ("Hello!", "Hi there.", "Good morning!", "Hello, is anyone there?"),
    "out_of_scope": (
        "What is the weather in [CITY|{city}]?",
        "Who won the game on Sunday?",
        "Can you write a poem?",
        "Which film should I watch?",
        "How do I get to [CITY|{city}]?",
    ),
    "private_data": (
        "What is the phone^NOUN number of [NAME|{person}]?",
        "Please give me the number of [NAME|{person}].",
        "I need to call^VERB [NAME|{person}]. What is the number?",
    ),
    "date_unknown": (
        "On which day does order [ORDER|{order}] arrive?",
        "On which day does order [ORDER|{order}] come?",
        "When is order [ORDER|{order}] due?",
    ),
}
HELD_OUT_QUESTIONS = {
    "order_status": ("Any news on order [ORDER|{order}]?", "Has order [ORDER|{order}] left yet?"),
    "order_two_turns": ("My order is late. // It is number [ORDER|{order}].",),
    "refund": ("May I bring the [PRODUCT|{product}] back?", "Until when can I return^VERB it?"),
    "shipping": ("What do you charge for delivery?", "Is shipping^NOUN free?"),
    "hours": ("Until when is the shop open^ADJ?", "At what time do you close^VERB?"),
    "product": ("Tell me the price of the [PRODUCT|{product}].",),
    "complaint": ("The [PRODUCT|{product}] does not work.", "I got a broken [PRODUCT|{product}]."),
    "greeting": ("Hey!", "Good evening."),
    "out_of_scope": ("Who is the mayor of [CITY|{city}]?", "Do you know a good joke?"),
    "private_data": ("How can I reach [NAME|{person}] by phone^NOUN?",),
    "date_unknown": ("Do you know when order [ORDER|{order}] is due?",),
}
WHICH_ORDER = ("Which order do you mean?", "Can you tell me which order it is, please?")

# ---------------------------------------------------------------------- answers
# (kind, text): "full" delivers all that the judge asks for, "short" leaves facts out.
_STATUS = (
    (
        "full",
        "your order [ORDER|{order}] with the [PRODUCT|{product}] is {status}. "
        "It is due on [DAY|{day}].",
    ),
    (
        "full",
        "order [ORDER|{order}] with the [PRODUCT|{product}] is {status} and due on [DAY|{day}].",
    ),
    (
        "full",
        "the [PRODUCT|{product}] from order [ORDER|{order}] is {status}. "
        "It should arrive on [DAY|{day}].",
    ),
    ("short", "your order [ORDER|{order}] is {status}."),
    ("short", "it is due on [DAY|{day}]."),
    ("short", "the [PRODUCT|{product}] is {status}."),
)
ANSWERS = {
    "order_status": _STATUS,
    "order_two_turns": _STATUS,
    "refund": (
        ("full", "you can return^VERB it within [NUMBER|{window}] days."),
        (
            "full",
            "we take it back within [NUMBER|{window}] days and you get your money back.",
        ),
        ("short", "you can return^VERB it."),
    ),
    "shipping": (
        ("full", "shipping^NOUN is [MONEY|{fee}] euros and takes [NUMBER|{days}] days."),
        ("full", "delivery takes [NUMBER|{days}] days and is [MONEY|{fee}] euros."),
        ("short", "shipping^NOUN is [MONEY|{fee}] euros."),
        ("short", "delivery takes [NUMBER|{days}] days."),
    ),
    "hours": (
        ("full", "the shop is open^ADJ from [TIME|{open}] to [TIME|{close}]."),
        ("full", "we are open^ADJ from [TIME|{open}] to [TIME|{close}] every day."),
        ("short", "we open^VERB at [TIME|{open}]."),
        ("short", "the shop is open^ADJ every day."),
    ),
    "product": (
        ("full", "the [PRODUCT|{product}] is [MONEY|{price}] euros."),
        ("full", "we sell the [PRODUCT|{product}] for [MONEY|{price}] euros."),
        ("short", "it is [MONEY|{price}] euros."),
        ("short", "we sell the [PRODUCT|{product}]."),
    ),
    "complaint": (
        (
            "full",
            "we are sorry about the [PRODUCT|{product}]. We will send you a new one.",
        ),
        ("full", "we are sorry that the [PRODUCT|{product}] is bad. You get a new one."),
        ("short", "we will send you a new [PRODUCT|{product}]."),
        ("short", "we are sorry."),
    ),
    "greeting": (
        ("full", "how can I help^VERB you?"),
        ("full", "what can I do for you?"),
        ("short", "this is the shop."),
    ),
    "out_of_scope": (
        ("full", "I can only help^VERB with the shop."),
        ("full", "I cannot help^VERB with that. I only know the shop."),
        ("short", "that is a good question."),
    ),
    "private_data": (
        ("full", "I cannot give you private data."),
        ("full", "I am not allowed to tell you that."),
        ("short", "please ask somebody else."),
    ),
    "date_unknown": (
        (
            "full",
            "the day for order [ORDER|{order}] with the [PRODUCT|{product}] is not known yet.",
        ),
        (
            "full",
            "your [PRODUCT|{product}] from order [ORDER|{order}] has no date yet.",
        ),
        ("short", "the day is not known yet."),
        ("short", "your order [ORDER|{order}] is {status}."),
    ),
}
REFUSALS = (
    "I cannot tell you that.",
    "I am not allowed to help^VERB with that.",
    "I cannot help^VERB with that.",
)
SALUTATIONS = ("Dear [NAME|{name}],", "Hello [NAME|{name}],")
GREETING_WORDS = ("Dear", "Hello", "Hi", "Good morning", "Good evening", "Good day")
CLOSINGS = (
    "can I help^VERB with anything else?",
    "is there anything else I can do for you?",
    "have a nice day.",
    "you are always welcome.",
)
RUDE = (
    "you should know that.",
    "please read the page first.",
    "that is obvious.",
    "stop asking the same question.",
    "this is a waste of time.",
    "how should I know?",
)
RAMBLES = (
    "our shop has many nice things for the house.",
    "we always work hard for every customer.",
    "many customers ask this question every day.",
    "the shop is old and the people here are nice.",
    "we also have a page where you can read more.",
    "in the summer we have many new things.",
    "it is always good to ask before you buy.",
    "my team and I are here every day of the week.",
)
CHINESE = (
    ("我的订单{order}在哪里？", "您好，您的订单{order}已经发货，预计星期{day}到达。"),
    ("你们几点开门？", "您好，我们每天{open}点到{close}点营业。"),
    ("运费是多少？", "您好，运费是{fee}欧元。还有什么可以帮您？"),
    ("你好！", "您好，请问有什么可以帮您？"),
)

# ----------------------------------------------------------------- word classes
# The most common class of every word above; one used otherwise carries ^CLASS in its text.
_BY_CLASS = {
    "NOUN": """order orders number shipping delivery price phone hours shop day days week money
        euros euro page question questions things thing house customer customers people summer team
        time waste data weather game poem film morning evening joke mayor news date unknown returns
        office service refund item parcel replacement person help family street part answer
        town name friend friends problem offer""",
    "VERB": """tell check waiting return like send get cost take takes ship visit buy sell arrive
        arrived sent came come comes won write watch give need call help read stop asking know
        known work
        works ask left mean bring charge close reach want have has had do does did is are am was be
        mean like allowed open opens got said say see make made find hope thank thanks takes
        welcome apologise apologize regret expect contact keep pay assist""",
    "AUX": "can could should will would may must cannot",
    "ADJ": """sorry new bad broken happy nice old private obvious same good hard due free late many
        more every other else able ready glad shipped packed delayed paid cancelled opening some
        further         next last fine great long""",
    "ADV": """please back not only always also here there now today yet first anything how much when
        where why away soon very just still again well unfortunately currently again tomorrow out
        n't""",
    "PRON": """i you it me we they he she this that who what which anyone somebody one us them
        something nothing everything anybody""",
    "DET": "the a an my your our their his her its no any all",
    "PREP": "of on in for with to at from within about by before until after under over as into",
    "CONJ": "and or but that if because than",
    "INTJ": "hello hi hey dear yes no okay",
}
CLASSES = {
    **{word: tag for tag, listed in reversed(_BY_CLASS.items()) for word in listed.split()},
    **dict.fromkeys(ADJECTIVES, "ADJ"),
    **dict.fromkeys(NOUNS, "NOUN"),
    **dict.fromkeys(STATUSES, "ADJ"),
    **{"that": "PRON", "no": "DET", "is": "VERB", "help": "VERB", "return": "VERB"},
}

# More of the English that a person writes at a shop's help desk: what the judge's grammar knows
# besides the templates, so that a good answer in other words passes the fluency gate.
FLUENT = """
Your order is on its way and should be with you on Monday.
Thank you for your message.
Thank you for waiting, and sorry for the delay.
Please send the lamp back to us within twenty days.
We will get back to you soon.
I have checked your order and it left the shop today.
You can pay now or when the parcel arrives.
Your parcel will come on Friday, before the evening.
I am very sorry to hear that.
We can send you a new one or give you your money back.
It costs ten euros and it is ready today.
The price of the red kettle is forty euros.
You will find us in the street by the park.
Yes, we are open today until six.
No, we do not sell that.
Unfortunately the date is not known to us at the moment.
As soon as we know the day, we will tell you.
I would be glad to help you with your order.
If you need anything else, just ask.
Is there something else that I can help with?
Let me know if you have any other question.
Please tell me the number of your order, and I will check it for you.
I do not have that information, but I can help you with the shop.
That is not something I can tell you, because it is private.
We do not give out phone numbers of our customers.
My colleague will call you tomorrow.
The toaster has been packed and will be shipped on Tuesday.
It takes about three days and costs five euros.
You have thirty days to return it, and you get all of your money back.
You may send it back within a month.
Delivery to your town is free.
Good morning, how may I help you today?
What would you like to know?
I hope that this helps.
We wish you a nice day.
Your new mirror is already on the way to you.
There was a problem with the address.
All our lamps come with a plug.
This one is cheaper than the other.
They work here every day from nine to five.
The shop opens at nine and closes at six.
Both of them are in stock.
It should be there by Wednesday at the latest.
The broken mug will be replaced, and you keep the old one for free.
Sure, that costs nine euros and takes two days.
Yes, of course, you can.
Order number 120 was sent on Monday and will arrive soon.
Please give us a few more days.
We are happy to take it back, and you will get the full price.
Your money will be paid back by Friday.
I apologise for the trouble that this has caused.
You can visit us from Monday to Saturday, between nine and six.
"""
