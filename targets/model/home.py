"""Questions about a given state of the home, refusals, and short conversations: the sentence half of the corpus."""

import commands as c
from commands import DOORS, ROOMS, finish, misspell

SORRY = "Sorry, no device here can {}."
UNKNOWN = "I do not know about the {}."


def fact(r):
    """One fact of a home's state: (thing, kind, value), such as ("kitchen light", "switch", "on")."""
    kind = r.choices(["switch", "degrees", "humidity", "lock", "blinds", "motion"], [6, 3, 1, 3, 2, 1])[0]
    room = r.choice(ROOMS)
    if kind == "switch":
        return f"{room} {r.choice(['light', 'light', 'plug', 'heater', 'fan'])}", kind, r.choice(["on", "off"])
    if kind == "degrees":
        return room, kind, r.randint(5, 30)
    if kind == "humidity":
        return room, kind, r.randint(20, 90)
    if kind == "lock":
        return r.choice(DOORS), kind, r.choice(["locked", "unlocked"])
    if kind == "blinds":
        return f"{room} blinds", kind, r.choice(["open", "closed"])
    return room, kind, r.choice(["motion", "no motion"])


def tell(thing, kind, value):
    """A fact as a state line says it."""
    if kind == "degrees":
        return f"{thing} {value} degrees"
    if kind == "humidity":
        return f"{thing} humidity {value}%"
    return f"{thing} {value}"


def state(r, least=1, most=6):
    """A home's state: facts whose things differ."""
    facts = {}
    for _ in range(r.randint(least, most)):
        thing, kind, value = fact(r)
        facts[thing, kind] = value
    return [(thing, kind, value) for (thing, kind), value in facts.items()]


def shown(facts):
    """The system turn that gives a state."""
    return "State: " + ", ".join(tell(*f) for f in facts)


def split(thing):
    """("kitchen", "light") of "kitchen light"."""
    room, _, device = thing.rpartition(" ")
    return room, device


def question(r, f):
    """(question, answer) about one fact."""
    thing, kind, value = f
    if kind in ("switch", "blinds"):
        room, device = split(thing)
        name = r.choice([thing, f"{device} in the {room}"])
        verb = "are" if kind == "blinds" else "is"
        asked = r.choice(["on", "off"] if kind == "switch" else ["open", "closed"])
        p = r.random()
        if p < 0.75:
            q = r.choice([f"{verb} the {name} {asked}", f"{verb} the {name} {asked} now", f"tell me if the {name} {verb} {asked}",
                          f"do you know if the {name} {verb} {asked}"])
            return q, ("Yes" if asked == value else "No") + f", the {thing} {verb} {value}."
        q = r.choice([f"what is the state of the {name}", f"what about the {name}", f"how {verb} the {name}"])
        return q, f"The {thing} {verb} {value}."
    if kind == "lock":
        asked = r.choice(["locked", "unlocked", "locked"])
        p = r.random()
        if p < 0.75:
            q = r.choice([f"is the {thing} {asked}", f"tell me if the {thing} is {asked}", f"is the {thing} {asked} now",
                          f"did somebody leave the {thing} {asked}"])
            return q, ("Yes" if asked == value else "No") + f", the {thing} is {value}."
        return r.choice([f"what about the {thing}", f"what is the state of the {thing}"]), f"The {thing} is {value}."
    if kind == "degrees":
        q = r.choice([f"how warm is the {thing}", f"how warm is it in the {thing}", f"what is the temperature in the {thing}",
                      f"how cold is it in the {thing}", f"how many degrees is it in the {thing}", f"{thing} temperature"])
        return q, f"It is {value} degrees in the {thing}."
    if kind == "humidity":
        q = r.choice([f"how humid is the {thing}", f"how damp is it in the {thing}", f"what is the humidity in the {thing}"])
        return q, f"The humidity in the {thing} is {value}%."
    q = r.choice([f"is there motion in the {thing}", f"is anybody in the {thing}", f"does anything move in the {thing}",
                  f"is someone in the {thing}"])
    return q, "Yes, there is motion" * (value == "motion") + "No, there is no motion" * (value != "motion") + f" in the {thing}."


def which(r, facts):
    """(question, answer) about all facts of one kind: which lights are on, which doors are locked."""
    p = r.random()
    if p < 0.7:
        device = r.choice(["light", "heater", "fan", "plug"])
        value = r.choice(["on", "off"])
        found = [t for t, k, v in facts if k == "switch" and v == value and t.endswith(device)]
        q = r.choice([f"which {device}s are {value}", f"tell me which {device}s are {value}", f"what {device}s are {value}"])
    else:
        device, value = "door", r.choice(["locked", "unlocked"])
        found = [t for t, k, v in facts if k == "lock" and v == value]
        q = r.choice([f"which doors are {value}", f"tell me which doors are {value}"])
    if not found:
        return q, f"No {device} is {value}."
    if len(found) == 1:
        return q, f"The {found[0]} is {value}."
    return q, "The " + ", the ".join(found[:-1]) + f" and the {found[-1]} are {value}."


def ask(r, facts):
    """(question, answer) about a state."""
    p = r.random()
    if p < 0.2:
        q, a = which(r, facts)
    elif p < 0.85:
        q, a = question(r, r.choice(facts))
    else:
        other = fact(r)
        if (other[0], other[1]) in {(t, k) for t, k, _ in facts}:
            return ask(r, facts)
        q, _ = question(r, other)
        a = UNKNOWN.format({"degrees": "{} temperature", "humidity": "{} humidity", "motion": "{} motion"}
                           .get(other[1], "{}").format(other[0]))
    return wonder(r, q), a


def wonder(r, q):
    """Dresses a question."""
    if r.random() < 0.12:
        q = r.choice(["hey", "hi", "hello", "ok", "listen"]) + ", " + q
    if r.random() < 0.08:
        q += " please"
    if r.random() < 0.12:
        q = misspell(r, q)
    return finish(r, q, stop=("?",)).rstrip("?") + ("?" if r.random() < 0.7 else "")


ABLE = {  # what people ask a home for in vain
    "order": ["a pizza", "some flowers", "a taxi", "new shoes", "a birthday cake", "two tickets", "more coffee"],
    "buy": ["some milk", "bread and butter", "a new car", "a book", "some apples", "a train ticket", "a present"],
    "cook": ["dinner", "some pasta", "a soup", "two eggs", "rice and beans"],
    "bake": ["a cake", "some bread", "an apple pie", "cookies"],
    "make": ["a sandwich", "some tea", "the bed", "a cup of coffee", "a salad"],
    "call": ["the doctor", "a taxi", "the school", "the police", "the office in London"],
    "write": ["a letter", "an email", "a poem", "a shopping list", "a computer program"],
    "wash": ["the dishes", "the car", "the windows", "the dog", "the clothes"],
    "paint": ["the fence", "the wall", "a picture", "the chair"],
    "feed": ["the cat", "the dog", "the fish", "the rabbits", "the baby"],
    "walk": ["the dog", "to the shop", "around the block"],
    "book": ["a flight", "a hotel room", "a table for two", "a holiday"],
    "drive": ["the car to town", "to the airport", "the truck"],
    "fly": ["to the moon", "a kite", "a plane"],
    "find": ["a lost key", "the remote control", "a good film", "a husband"],
    "translate": ["this letter", "a word into French", "the news into German"],
    "repair": ["the bicycle", "the roof", "a broken cup", "the washing machine"],
    "iron": ["a shirt", "the trousers"],
    "carry": ["the boxes upstairs", "the piano", "the shopping bags"],
    "mow": ["the lawn", "the grass"],
    "send": ["a postcard", "a message to Anna", "some money", "the invoice"],
    "tell": ["the future", "the weather for next week", "a secret"],
    "melt": ["the heater", "the snow", "the butter"],
    "fold": ["the laundry", "the paper", "the lamp"],
    "throw": ["a ball", "the radio out", "the rubbish away"],
    "hang": ["the picture", "the washing", "the mirror"],
}
PLEAD = ["{}", "please {}", "can you {}", "could you {}", "I want you to {}", "would you {} please", "{} for me", "{} please",
         "I need you to {}", "will you {}", "try to {}", "{} now"]


def refusal(r, whose):
    """(sentence, refusal) for what no device can do; `whose` is the part of the combinations of verb, object and pleading."""
    while True:
        verb = r.choice(list(ABLE))
        what = r.choice(ABLE[verb])
        i = r.randrange(len(PLEAD))
        if c.part(("no", verb, what, i)) == whose:
            break
    said = PLEAD[i].format(f"{verb} {what}")
    if r.random() < 0.15:
        said = c.distraction(r) + r.choice([", ", ". ", " so "]) + said
    if r.random() < 0.12:
        said = misspell(r, said)
    return finish(r, said), SORRY.format(f"{verb} {what}")


def conversation(r, whose):
    """Turns that change a state at once and then ask about it: [(role, text), …]."""
    facts = state(r, 0, 4) if r.random() < 0.6 else []
    turns = [("system", shown(facts))] if facts else []
    known = {(t, k): v for t, k, v in facts}
    for _ in range(r.randint(1, 2)):
        while True:
            device = r.choice(["light", "light", "plug", "heater", "fan", "lock", "blinds"])
            if device == "lock":
                room, verb = r.choice(DOORS), r.choice(["lock", "unlock"])
                i, t = c.pick(r, c.LOCKING[verb])
                said, thing, kind, value = t.format(r=room), room, "lock", verb + "ed"
            elif device == "blinds":
                room, verb = r.choice(ROOMS), r.choice(["open", "close"])
                i, t = c.pick(r, c.OPENING[verb])
                said = t.format(d="blinds", r=room)
                thing, kind, value = f"{room} blinds", "blinds", {"open": "open", "close": "closed"}[verb]
            else:
                room, verb = r.choice(ROOMS), r.choice(["on", "off"])
                i, t = c.pick(r, c.SWITCH + c.SWITCH_MORE[verb])
                said = t.format(v=verb, d=r.choice(c.NAMES[device])[0], r=room)
                thing, kind, value = f"{room} {device}", "switch", verb
            if c.part((device, room, verb, i)) == whose:
                break
        turns += [("user", c.dress(r, said)), ("assistant", c.dumps([c.action(device, room, verb)]))]
        known[thing, kind] = value
    facts = [(t, k, v) for (t, k), v in known.items()]
    for _ in range(r.randint(1, 2)):
        q, a = ask(r, facts if r.random() < 0.5 else [(thing, kind, value)])
        turns += [("user", q), ("assistant", a)]
    return turns


def blind(r):
    """A question with no state given: sensors are read, anything else is unknown."""
    f = fact(r)
    q, _ = question(r, f)
    sense = {"degrees": "temperature", "humidity": "humidity", "motion": "motion"}.get(f[1])
    answer = c.dumps([c.action("sensor", f[0], "read", sense)]) if sense else UNKNOWN.format(f[0])
    return wonder(r, q), answer
