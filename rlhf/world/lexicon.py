"""The words of the built-in task: the possible values of each fact type and the filler around them.

Every value is a fixed phrase, so a parser can find it exactly; no phrase occurs inside another one of
another type. Relation and name together are the *who* of a post.
"""

from __future__ import annotations

RELATIONS = ("sister", "brother", "friend", "boss", "neighbor", "cousin", "roommate", "uncle")
NAMES = (
    "anna", "tom", "maria", "joe", "lena", "sam", "nina", "paul", "kate", "omar",
    "ruth", "ivan", "rosa", "dean", "cleo", "finn", "greta", "hugo", "iris", "luis",
)  # fmt: skip
VERBS = ("broke", "lost", "stole", "sold", "borrowed", "damaged", "hid", "ruined", "burned", "painted")
OBJECTS = (
    "laptop", "bike", "phone", "car", "guitar", "camera", "jacket", "couch", "watch", "tent",
    "piano", "mirror", "drill", "lamp",
)  # fmt: skip

PHRASES: dict[str, tuple[str, ...]] = {
    "who": tuple(f"{relation} {name}" for relation in RELATIONS for name in NAMES),
    "deed": tuple(f"{verb} my {thing}" for verb in VERBS for thing in OBJECTS),
    "when": (
        "yesterday", "last week", "last month", "last year", "this morning", "on monday", "on tuesday",
        "on friday", "on sunday", "at christmas", "in april", "in october",
    ),
    "where": (
        "at school", "at work", "at home", "in the park", "in the garage", "in the garden", "at the beach",
        "at a party", "on the train", "in the kitchen", "at the gym", "in the office",
    ),
    "amount": tuple(
        f"{number} dollars"
        for number in (
            "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred",
            "thousand", "fifteen",
        )
    ),
    "feeling": tuple(
        f"feel {feeling}"
        for feeling in (
            "angry", "sad", "guilty", "tired", "scared", "jealous", "ashamed", "confused", "hurt", "nervous",
            "lonely", "betrayed",
        )
    ),
    "ask": (
        "should i forgive", "should i call the police", "should i move out", "should i ask for money",
        "should i tell my parents", "should i stay quiet", "should i apologize", "should i get revenge",
        "should i end contact", "should i buy another",
    ),
}  # fmt: skip
FACT_TYPES = tuple(PHRASES)

SUBREDDITS = ("relationships", "advice", "family", "legal", "money", "offmychest")
SUBREDDIT_OF_ASK = {ask: SUBREDDITS[i % len(SUBREDDITS)] for i, ask in enumerate(PHRASES["ask"])}

FILLER = (
    "thanks for reading", "i never post here", "english is not my first language", "this is a long story",
    "sorry for the format", "we have known each other for ages", "nobody else knows about this",
    "i keep thinking about it", "it was raining all day", "please be kind", "i have tried to talk",
    "my phone battery is low",
)  # fmt: skip
# What a rambling writer adds; the words say nothing that a claim would.
RAMBLE = (
    "long story short", "i do not know what to do", "it is what it is", "you know how it goes",
    "anyway here we are", "life is hard",
)  # fmt: skip
# Words that sound sure and carry nothing: novices like them, the gold preference does not.
CONFIDENT = ("clearly", "definitely", "obviously", "certainly", "absolutely")
# Words that may join claims into sentences at no cost.
CONNECTORS = frozenset(
    "my i it cost me and the damage was so about this now him her them".split()  # noqa: SIM905
)
