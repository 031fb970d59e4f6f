"""Wordings of the example support tickets: problems, urgency, wishes, products, greetings.

The first part of each tuple is used everywhere; what stands under a `HELDOUT_` name is seen by the held-out split only,
so that it also asks for products and wordings the training rows never showed. The module knows nothing about splits,
chat messages or JSON.
"""

from __future__ import annotations

BRANDS = (
    "Lumo",
    "Velora",
    "Kitano",
    "Norwick",
    "Brask",
    "Solenn",
    "Tarvo",
    "Quilla",
    "Fenwick",
    "Ostra",
    "Zimba",
    "Halden",
    "Pirro",
    "Calyx",
    "Drovel",
    "Mirano",
)
HELDOUT_BRANDS = ("Astrell", "Gorvan", "Wexley", "Tundry")
ITEMS = (
    "desk lamp",
    "kettle",
    "headphones",
    "backpack",
    "office chair",
    "keyboard",
    "blender",
    "phone case",
    "toaster",
    "camera",
    "speaker",
    "coffee grinder",
    "tent",
    "monitor",
    "bicycle pump",
    "watch",
)
HELDOUT_ITEMS = ("garden hose", "night light", "guitar stand", "heater")
ORDER_PREFIXES = ("KT", "RX", "BD", "MO", "ZL", "AP", "VN", "CS")
HELDOUT_ORDER_PREFIXES = ("QF", "HJ")

# {p} is the product.
PROBLEMS: dict[str, tuple[str, ...]] = {
    "delivery": (
        "My {p} has not arrived yet.",
        "I am still waiting for my {p}.",
        "The parcel with the {p} is lost.",
        "The courier never came with my {p}.",
        "The {p} was sent to the wrong address.",
        "The tracking page says nothing about my {p}.",
        "Where is my {p}? The parcel is two weeks late.",
        "The driver left the parcel with the {p} in the rain.",
        "My {p} should have been delivered on Monday.",
        "Shipping of the {p} takes forever.",
    ),
    "defect": (
        "My {p} is broken.",
        "The {p} stopped working after two days.",
        "The {p} makes a strange noise.",
        "There is a crack in my new {p}.",
        "The {p} does not turn on any more.",
        "A part of the {p} came off.",
        "The {p} smells of smoke when I use it.",
        "My {p} is faulty, the button is stuck.",
        "The {p} has a scratch and a loose screw.",
        "The {p} fell apart on the first day.",
    ),
    "billing": (
        "I was charged twice for the {p}.",
        "The invoice for my {p} is wrong.",
        "You took too much money for the {p}.",
        "The discount for the {p} is missing on my bill.",
        "My card was billed again for the {p}.",
        "The price of the {p} on the invoice is too high.",
        "I paid for the {p}, but the bill says unpaid.",
        "There is a fee on the invoice of my {p} that I do not know.",
        "The tax on the bill for the {p} is wrong.",
        "Please correct the payment for my {p}.",
    ),
    "account": (
        "I cannot log in to register my {p}.",
        "My password does not work, so I cannot see my {p}.",
        "Please change the email in my account, I bought a {p}.",
        "My account is locked since I bought the {p}.",
        "The login page fails when I look for my {p}.",
        "I want to delete my account, the {p} is all I bought.",
        "My profile shows the wrong name next to the {p}.",
        "I forgot my password and cannot add the {p}.",
        "The reset link for my login never came, I need the {p} manual.",
        "I cannot sign in to see my {p}.",
    ),
}
HELDOUT_PROBLEMS: dict[str, tuple[str, ...]] = {
    "delivery": ("The courier lost the parcel with my {p}.", "My {p} has not been delivered."),
    "defect": ("My new {p} has a crack and does not work.", "The button of the {p} is broken."),
    "billing": ("The bill for my {p} is too high.", "My card was charged again for the {p}."),
    "account": ("The login to my account fails, I bought a {p}.", "My password for the {p} page does not work."),
}

PRIORITIES: dict[str, tuple[str, ...]] = {
    "high": (
        "This is very urgent.",
        "I need help today.",
        "Please act at once.",
        "I cannot wait any longer.",
        "It is an emergency for us.",
        "Answer me immediately.",
        "We need this fixed today.",
        "Hurry, please!",
    ),
    "medium": (
        "Please look at it this week.",
        "I would like an answer in the next days.",
        "A reply by Friday would be good.",
        "Please fix it soon.",
        "I hope to hear from you this week.",
        "Some time this week is fine.",
        "Please reply within a few days.",
        "Let me know by Friday.",
    ),
    "low": (
        "There is no hurry.",
        "Take your time.",
        "It is not urgent at all.",
        "Whenever you have a moment.",
        "No rush from my side.",
        "It can wait until next month.",
        "Answer when you can.",
        "I am in no hurry.",
    ),
}
HELDOUT_PRIORITIES: dict[str, tuple[str, ...]] = {
    "high": ("This is urgent, I need it today.",),
    "medium": ("Please answer by Friday.",),
    "low": ("No hurry at all.",),
}

WISHES: dict[bool, tuple[str, ...]] = {
    True: (
        "I want my money back.",
        "Please refund me.",
        "I ask for a full refund.",
        "Please return the money.",
        "Send the money back to my card.",
        "I expect a refund.",
        "Pay me back, please.",
        "Give me my money back.",
    ),
    False: (
        "I do not need a refund.",
        "Please just fix it.",
        "Just tell me what to do.",
        "Keep the money, just solve it.",
        "A short explanation is enough.",
        "I only want it solved.",
        "No refund needed.",
        "Please just help me.",
    ),
}
HELDOUT_WISHES: dict[bool, tuple[str, ...]] = {
    True: ("Please refund the money.",),
    False: ("Just fix it, no refund needed.",),
}

# {o} is the order number; the second tuple belongs to customers who have none at hand.
ORDERS = (
    "The order number is {o}.",
    "My order is {o}.",
    "Order {o}.",
    "It is order {o}.",
    "I ordered it as {o}.",
    "You find it under {o}.",
    "My order number: {o}.",
    "Order number {o}, if that helps.",
)
NO_ORDER = ("I do not have the order number.", "I lost the order number.", "The order number is not at hand.")

GREETINGS = ("Hello,", "Hi,", "Good morning,", "Dear support,", "Hi there,", "Hello team,", "Good evening,")
CLOSINGS = ("Thanks, {n}", "Regards, {n}", "Best, {n}", "{n}", "Thank you, {n}", "Yours, {n}")
NAMES = (
    "Anna",
    "Marek",
    "Sofia",
    "Tom",
    "Leila",
    "Jakob",
    "Mina",
    "Pedro",
    "Ruth",
    "Ivan",
    "Chloe",
    "Amara",
    "Ken",
    "Petra",
    "Luis",
    "Dana",
)
HELDOUT_NAMES = ("Oskar", "Noor", "Bea", "Vikram")
