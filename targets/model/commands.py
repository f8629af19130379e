"""Sentences about the home and their action lists: the command half of the corpus.

Everything is drawn from the grammar below with a seeded `random.Random`. A sentence is one to three clauses; each
clause has a *combination*: (device, room, action, phrasing). Where a clause has no room (timers, robot moves) its value
stands in the room's place. `part(combination)` takes, by hash, one combination in ten out of training for the test, and one
in fifty for choices made during development.
"""

import hashlib
import json

ROOMS = ["kitchen", "living room", "bedroom", "bathroom", "garage", "office", "hall", "attic", "cellar", "workshop",
         "greenhouse", "nursery", "dining room", "shed", "porch", "garden", "laundry room", "guest room", "pantry", "studio"]
DOORS = ["front door", "back door", "side door", "garage door", "cellar door", "shed door", "balcony door", "garden gate",
         "office door", "workshop door"]
NAMES = {  # device: what people call it (singular, plural)
    "light": [("light", "lights"), ("lamp", "lamps")],
    "plug": [("plug", "plugs"), ("socket", "sockets"), ("outlet", "outlets")],
    "heater": [("heater", "heaters"), ("radiator", "radiators"), ("heating", "heaters")],
    "fan": [("fan", "fans"), ("ventilator", "ventilators")],
    "blinds": [("blinds", "blinds"), ("shutters", "shutters"), ("curtains", "curtains"), ("shades", "shades")],
}
COLORS = ["red", "green", "blue", "white", "yellow", "orange", "purple", "pink", "warm white", "cold white"]
GENRES = ["jazz", "rock", "pop", "classical music", "piano music", "folk songs", "blues", "country", "dance music",
          "lullabies", "the radio", "the news"]
SENSES = {"temperature": ["temperature"], "humidity": ["humidity"], "motion": ["motion"], "smoke": ["smoke"],
          "noise": ["noise", "noise level"], "air": ["air quality"], "water": ["water leak"]}
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
UNITS = {"s": ["second", "sec"], "m": ["minute", "min"], "h": ["hour", "hour"]}
SMALL = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
         "eighteen nineteen").split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()


def part(combination):
    """"test" for a tenth of all combinations, "dev" for a fiftieth, "train" for the rest: no other may be trained on."""
    byte = hashlib.sha256("|".join(str(x) for x in combination).encode()).digest()[0]
    return "test" if byte % 10 == 0 else "dev" if byte in (1, 2, 3, 4, 5) else "train"


def words_of(n):
    """An integer from 0 to 199 in words."""
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10] + ("" if n % 10 == 0 else " " + SMALL[n % 10])
    if n == 100:
        return "one hundred"
    return "one hundred and " + words_of(n - 100)


def number(r, n):
    """How a person writes `n`: in figures, or (less often) in words."""
    return words_of(n) if r.random() < 0.3 else str(n)


def duration(r):
    """(what was said, canonical form): ("ten minutes", "10m")."""
    p = r.random()
    if p < 0.06:
        return "half an hour", "30m"
    if p < 0.10:
        return "an hour and a half", "90m"
    if p < 0.14:
        return "a quarter of an hour", "15m"
    if p < 0.18:
        return r.choice([("an hour", "1h"), ("a minute", "1m")])
    unit = r.choices("smh", [2, 5, 3])[0]
    n = r.randint(2, 12) if unit == "h" else r.choice([r.randint(2, 60), 5 * r.randint(1, 12), 5 * r.randint(1, 18)])
    name = r.choice(UNITS[unit][:1] * 4 + UNITS[unit][1:])
    plural = name if name == "min" or name == "sec" else name + "s"
    return f"{number(r, n)} {plural}", f"{n}{unit}"


def clock(r):
    """(what was said, "HH:MM"): ("half past seven in the evening", "19:30")."""
    h = r.randint(0, 23)
    m = r.choice([0, 0, 30, 15, 45, 5 * r.randint(0, 11), r.randint(1, 59)])
    said = f"{h:02}:{m:02}"
    p = r.random()
    if h == 0 and m == 0 and p < 0.5:
        return "midnight", said
    if h == 12 and m == 0 and p < 0.5:
        return "noon", said
    if p < 0.3:
        return said, said
    h12 = (h - 1) % 12 + 1
    half = "am" if h < 12 else "pm"
    if p < 0.65:
        return (f"{h12} {half}" if m == 0 else f"{h12}:{m:02} {half}"), said
    part = "in the morning" if h < 12 else "in the afternoon" if h < 18 else "in the evening"
    hour = number(r, h12)
    if m == 0:
        return f"{hour} {part}" if r.random() < 0.5 else f"{hour} o'clock {part}", said
    if m == 30:
        return f"half past {hour} {part}", said
    if m == 15:
        return f"quarter past {hour} {part}", said
    if m == 45:
        return f"quarter to {number(r, h12 % 12 + 1)} {part}", said
    return f"{h12}:{m:02} {part}", said


# Phrasings. {d} device, {r} room, {n} the value as said. A phrasing's number in its list is part of the combination.
SWITCH = ["turn {v} the {d} in the {r}", "turn the {r} {d} {v}", "switch {v} the {r} {d}", "switch the {d} in the {r} {v}",
          "{r} {d} {v}", "put the {d} {v} in the {r}", "I want the {r} {d} {v}", "the {d} in the {r} should be {v}",
          "in the {r}, turn {v} the {d}", "make sure the {r} {d} goes {v}", "get the {r} {d} {v}",
          "I need the {d} in the {r} {v}", "turn {v} the {r} {d}", "switch {v} the {d} in the {r}", "have the {r} {d} {v}"]
SWITCH_MORE = {
    "on": ["start the {r} {d}", "power up the {d} in the {r}", "activate the {r} {d}"],
    "off": ["shut off the {r} {d}", "power down the {d} in the {r}", "stop the {r} {d}", "kill the {d} in the {r}"],
}
SWITCH_HERE = ["turn {v} the {d}", "switch the {d} {v}", "{d} {v}", "put the {d} {v}", "I want the {d} {v}", "turn the {d} {v}"]
SWITCH_ALL = ["turn {v} all the {d}", "all {d} {v}", "switch every one of the {d} {v}", "turn {v} the {d} everywhere",
              "switch {v} the {d} in the whole house", "I want all {d} {v}", "turn {v} the {d} in every room"]
OPENING = {
    "open": ["open the {d} in the {r}", "open the {r} {d}", "raise the {r} {d}", "pull up the {d} in the {r}",
             "lift the {r} {d}", "I want the {r} {d} open", "{r} {d} up", "roll up the {d} in the {r}", "draw back the {r} {d}"],
    "close": ["close the {d} in the {r}", "close the {r} {d}", "lower the {r} {d}", "pull down the {d} in the {r}",
              "shut the {r} {d}", "I want the {r} {d} closed", "{r} {d} down", "roll down the {d} in the {r}",
              "let down the {r} {d}"],
}
OPENING_ALL = {"open": ["open all the {d}", "raise every one of the {d}", "open the {d} everywhere", "all {d} up"],
               "close": ["close all the {d}", "lower every one of the {d}", "close the {d} everywhere", "all {d} down"]}
LEVEL = ["set the {r} {d} to {n}", "set the {d} in the {r} to {n}", "put the {r} {d} at {n}", "{r} {d} {n}",
         "I want the {r} {d} at {n}", "bring the {d} in the {r} to {n}", "in the {r}, set the {d} to {n}",
         "change the {r} {d} to {n}", "make the {d} in the {r} {n}"]
LIGHT_LEVEL = LEVEL + ["dim the {r} {d} to {n}", "dim the {d} in the {r} to {n}", "brighten the {r} {d} to {n}"]
LIGHT_COLOR = LEVEL + ["turn the {r} {d} {n}", "I want {n} light in the {r}", "let the {d} in the {r} shine {n}"]
HEAT = LEVEL + ["heat the {r} to {n}", "warm the {r} up to {n}", "make it {n} in the {r}", "bring the {r} to {n}",
                "keep the {r} at {n}"]
SPEED = LEVEL + ["run the {r} {d} at {n}", "let the {d} in the {r} spin at {n}"]
SLATS = LEVEL + ["open the {r} {d} to {n}", "move the {d} in the {r} to {n}"]
LOCKING = {
    "lock": ["lock the {r}", "lock up the {r}", "bolt the {r}", "make sure the {r} is locked", "the {r} should be locked",
             "I want the {r} locked", "secure the {r}", "put the lock on the {r}"],
    "unlock": ["unlock the {r}", "open the lock of the {r}", "make sure the {r} is unlocked", "the {r} should be unlocked",
               "I want the {r} unlocked", "release the lock on the {r}", "unbolt the {r}", "take the lock off the {r}"],
}
PLAY = ["play {n} in the {r}", "put on {n} in the {r}", "I want to hear {n} in the {r}", "start {n} in the {r}",
        "let us have {n} in the {r}", "in the {r}, play {n}", "give me {n} in the {r}", "stream {n} to the {r}",
        "play some {n} in the {r}"]
PLAY_HERE = ["play {n}", "put on {n}", "I want to hear {n}", "start playing {n}", "let us listen to {n}"]
MUSIC = {
    "pause": ["pause the music in the {r}", "pause the {r} music", "hold the music in the {r}", "in the {r}, pause the music",
              "pause the {r} speaker"],
    "stop": ["stop the music in the {r}", "stop the {r} music", "no more music in the {r}", "in the {r}, stop the music",
             "turn the music off in the {r}", "silence the {r} speaker"],
    "next": ["next song in the {r}", "skip this song in the {r}", "play the next song in the {r}",
             "in the {r}, skip to the next song", "another song in the {r}"],
}
VOLUME = ["set the volume in the {r} to {n}", "set the {r} volume to {n}", "volume {n} in the {r}",
          "turn the music in the {r} to {n}", "put the {r} speaker at {n}", "make the music in the {r} {n}",
          "in the {r}, set the volume to {n}", "play the {r} music at {n}"]
TIMER = ["set a timer for {n}", "start a timer for {n}", "timer {n}", "count down {n}", "give me a timer of {n}",
         "remind me in {n}", "start a countdown of {n}", "tell me when {n} have passed", "put {n} on the timer"]
ALARM = ["set an alarm for {n}", "set the alarm to {n}", "wake me at {n}", "wake me up at {n}", "alarm at {n}",
         "I have to get up at {n}", "I need an alarm at {n}", "ring the alarm at {n}", "make an alarm for {n}"]
CANCEL = {"timer": ["cancel the timer", "stop the timer", "delete the timer", "clear the timer", "no more timer"],
          "alarm": ["cancel the alarm", "delete the alarm", "switch off the alarm", "clear the alarm", "no alarm"]}
SENSE = ["read the {n} sensor in the {r}", "check the {n} in the {r}", "tell me the {n} in the {r}",
         "measure the {n} in the {r}", "get the {r} {n}", "what does the {n} sensor in the {r} say", "show me the {r} {n}",
         "check the {r} for {n}", "I want to know the {n} in the {r}", "what is the {n} in the {r}"]
MOVE = {
    "forward": ["robot, go forward {n}", "move the robot forward {n}", "drive the robot {n} ahead", "robot forward {n}",
                "make the robot go {n} forward", "let the robot roll forward {n}", "send the robot {n} forward"],
    "back": ["robot, go back {n}", "move the robot back {n}", "drive the robot {n} backwards", "robot back {n}",
             "make the robot go {n} back", "let the robot roll back {n}", "reverse the robot by {n}"],
    "left": ["robot, turn left {n}", "turn the robot left by {n}", "robot left {n}", "rotate the robot {n} to the left",
             "make the robot turn {n} left", "let the robot spin left {n}"],
    "right": ["robot, turn right {n}", "turn the robot right by {n}", "robot right {n}", "rotate the robot {n} to the right",
              "make the robot turn {n} right", "let the robot spin right {n}"],
}
ERRAND = {
    "go": ["send the robot to the {r}", "robot, go to the {r}", "drive the robot to the {r}", "move the robot into the {r}",
           "the robot should go to the {r}", "I want the robot in the {r}"],
    "clean": ["clean the {r}", "vacuum the {r}", "robot, clean the {r}", "let the robot clean the {r}",
              "send the robot to clean the {r}", "the {r} floor needs cleaning", "sweep the {r}", "have the {r} vacuumed"],
}
ROBOT = {"stop": ["stop the robot", "robot, stop", "halt the robot", "robot, stay where you are", "freeze the robot"],
         "dock": ["robot, go home", "send the robot to its dock", "dock the robot", "charge the robot",
                  "the robot should go back to its base", "park the robot"]}


def percent(r):
    n = r.choice([10 * r.randint(0, 10), 5 * r.randint(1, 20), r.randint(1, 100)])
    return r.choice([f"{n}%", f"{n} percent", f"{words_of(n)} percent"]), n


def degrees(r):
    n = r.randint(5, 30)
    return number(r, n) + r.choice([" degrees", " degrees", " degrees celsius", ""]), n


def action(device, room, verb, value=None):
    act = {"device": device}
    if room is not None:
        act["room"] = room
    act["action"] = verb
    if value is not None:
        act["value"] = value
    return act


def pick(r, table):
    """(number, phrasing) of one phrasing in a list."""
    i = r.randrange(len(table))
    return i, table[i]


def clause(r):
    """One clause before times: (text, [actions], [combinations])."""
    kind = r.choices(["switch", "here", "all", "level", "blinds", "lock", "music", "time", "sense", "robot", "pair"],
                     [26, 4, 4, 20, 9, 7, 14, 9, 7, 12, 9])[0]
    room = r.choice(ROOMS)
    if kind == "pair":
        return pair(r)
    if kind == "switch":
        device = r.choice(["light", "plug", "heater", "fan"])
        verb = r.choice(["on", "off"])
        i, t = pick(r, SWITCH + SWITCH_MORE[verb])
        said = t.format(v=verb, d=r.choice(r.choice(NAMES[device])), r=room)
        return said, [action(device, room, verb)], [(device, room, verb, i)]
    if kind == "here":
        device = r.choice(["light", "plug", "heater", "fan"])
        verb = r.choice(["on", "off"])
        i, t = pick(r, SWITCH_HERE)
        name = r.choice(NAMES[device])[0]
        return t.format(v=verb, d=name), [action(device, None, verb)], [(device, name, verb, f"here{i}")]
    if kind == "all":
        if r.random() < 0.3:
            device, verb = "blinds", r.choice(["open", "close"])
            i, t = pick(r, OPENING_ALL[verb])
        else:
            device, verb = r.choice(["light", "plug", "heater", "fan"]), r.choice(["on", "off"])
            i, t = pick(r, SWITCH_ALL)
        name = r.choice(NAMES[device])[1]
        return t.format(v=verb, d=name), [action(device, "all", verb)], [(device, name, verb, f"all{i}")]
    if kind == "level":
        device = r.choice(["light", "color", "heater", "fan", "blinds"])
        if device == "light":
            (n, value), table = percent(r), LIGHT_LEVEL
        elif device == "color":
            n = value = r.choice(COLORS)
            table = LIGHT_COLOR
        elif device == "heater":
            (n, value), table = degrees(r), HEAT
        elif device == "fan":
            value = r.randint(1, 5)
            n, table = r.choice(["speed ", "level ", "speed "]) + number(r, value), SPEED
        else:
            (n, value), table = percent(r), SLATS
        i, t = pick(r, table)
        name = device if device != "color" else "light"
        said = t.format(d=r.choice(NAMES[name])[0], r=room, n=n)
        return said, [action(name, room, "set", value)], [(device, room, "set", i)]
    if kind == "blinds":
        verb = r.choice(["open", "close"])
        i, t = pick(r, OPENING[verb])
        return t.format(d=r.choice(NAMES["blinds"])[0], r=room), [action("blinds", room, verb)], [("blinds", room, verb, i)]
    if kind == "lock":
        door, verb = r.choice(DOORS), r.choice(["lock", "unlock"])
        i, t = pick(r, LOCKING[verb])
        return t.format(r=door), [action("lock", door, verb)], [("lock", door, verb, i)]
    if kind == "music":
        p = r.random()
        if p < 0.4:
            value = r.choice(GENRES)
            i, t = pick(r, PLAY)
            if value.startswith("the "):
                t = t.replace("some ", "")
            return t.format(n=value, r=room), [action("music", room, "play", bare(value))], [("music", room, "play", i)]
        if p < 0.5:
            value = r.choice(GENRES)
            i, t = pick(r, PLAY_HERE)
            return t.format(n=value), [action("music", None, "play", bare(value))], [("music", value, "play", f"here{i}")]
        if p < 0.75:
            n, value = percent(r)
            i, t = pick(r, VOLUME)
            return t.format(n=n, r=room), [action("music", room, "volume", value)], [("music", room, "volume", i)]
        verb = r.choice(list(MUSIC))
        i, t = pick(r, MUSIC[verb])
        return t.format(r=room), [action("music", room, verb)], [("music", room, verb, i)]
    if kind == "time":
        p = r.random()
        if p < 0.1:
            device = r.choice(["timer", "alarm"])
            i, t = pick(r, CANCEL[device])
            return t, [action(device, None, "cancel")], [(device, None, "cancel", "fixed")]
        if p < 0.5:
            n, value = duration(r)
            i, t = pick(r, TIMER)
            return t.format(n=n), [action("timer", None, "set", value)], [("timer", value, "set", i)]
        n, value = clock(r)
        i, t = pick(r, ALARM)
        act = action("alarm", None, "set", value)
        said = t.format(n=n)
        p = r.random()
        if p < 0.25:
            act["day"] = r.choice(DAYS)
            said += " on " + act["day"]
        elif p < 0.45:
            act["day"] = "tomorrow"
            said += " tomorrow"
        return said, [act], [("alarm", value, "set", i)]
    if kind == "sense":
        value = r.choice(list(SENSES))
        i, t = pick(r, SENSE)
        return t.format(n=r.choice(SENSES[value]), r=room), [action("sensor", room, "read", value)], [(value, room, "read", i)]
    p = r.random()
    if p < 0.15:
        verb = r.choice(list(ROBOT))
        i, t = pick(r, ROBOT[verb])
        return t, [action("robot", None, verb)], [("robot", None, verb, "fixed")]
    if p < 0.5:
        verb = r.choice(list(ERRAND))
        i, t = pick(r, ERRAND[verb])
        return t.format(r=room), [action("robot", room, verb)], [("robot", room, verb, i)]
    verb = r.choice(list(MOVE))
    i, t = pick(r, MOVE[verb])
    if verb in ("left", "right"):
        value = r.choice([15 * r.randint(1, 12), 10 * r.randint(1, 18), 45, 90, 180])
        n = number(r, value) + " degrees"
    else:
        unit, names = r.choice([("cm", ["cm", "centimeters"]), ("m", ["m", "meters"]), ("cm", ["cm", "centimeters"])])
        k = r.randint(2, 10) if unit == "m" else r.choice([5 * r.randint(1, 20), r.randint(2, 99)])
        n, value = number(r, k) + " " + r.choice(names), f"{k}{unit}"
    return t.format(n=n), [action("robot", None, verb, value)], [("robot", value, verb, i)]


def bare(value):
    """The value that stands for a thing to play: "the radio" is "radio"."""
    return value.removeprefix("the ")


def pair(r):
    """Two actions that share a verb: "turn off the lamp in the hall and the fan in the attic"."""
    form = r.randrange(4)
    verb = r.choice(["on", "off"])
    a, b = r.sample(ROOMS, 2)
    d, e = r.sample(["light", "plug", "heater", "fan"], 2)
    name = lambda device: r.choice(NAMES[device])
    turn = r.choice(["turn", "switch"])
    if form == 0:
        said = f"{turn} {verb} the {name(d)[0]} in the {a} and the {name(e)[0]} in the {b}"
        acts = [(d, a), (e, b)]
    elif form == 1:
        said = f"{turn} {verb} the {name(d)[1]} in the {a} and the {b}"
        acts = [(d, a), (d, b)]
    elif form == 2:
        said = f"{turn} {verb} the {name(d)[0]} and the {name(e)[0]} in the {a}"
        acts = [(d, a), (e, a)]
    else:
        said = f"{turn} the {a} {name(d)[0]} and the {b} {name(e)[0]} {verb}"
        acts = [(d, a), (e, b)]
    return said, [action(x, y, verb) for x, y in acts], [(x, y, verb, f"pair{form}") for x, y in acts]


def timed(r, said, acts):
    """Perhaps adds a moment or a span to a clause, and to each of its actions."""
    first = acts[0]
    if first["device"] in ("timer", "alarm", "sensor") or said.endswith((" have passed", "you are")):
        return said, acts
    p = r.random()
    if p < 0.62:
        return said, acts
    if p < 0.80:
        n, value = duration(r)
        key = "in"
        forms = [f"{said} in {n}", f"in {n} {said}", f"{said} after {n}", f"{said} {n} from now", f"in {n}, {said}"]
    elif p < 0.92 or first["action"] not in ("on", "play", "open") or len(acts) > 1:
        n, value = clock(r)
        key = "at"
        forms = [f"{said} at {n}", f"at {n} {said}", f"at {n}, {said}"]
    else:
        n, value = duration(r)
        key = "for"
        forms = [f"{said} for {n}", f"for {n}, {said}"]
    return r.choice(forms), [{**act, key: value} for act in acts]


WHO = ["my mother", "my father", "my sister", "my brother", "grandma", "the baby", "the dog", "the cat", "my friend",
       "our guest", "the neighbour", "my boss", "uncle Ben", "the plumber"]
DOING = ["asleep", "here", "coming", "cold", "hungry", "tired", "in the {r}", "waiting", "at the door", "ill", "late",
         "hot", "busy", "back", "upstairs"]
FEEL = ["cold", "dark", "hot", "late", "noisy", "bright", "stuffy", "early", "damp", "sunny", "windy", "quiet"]
SELF = ["going to bed", "tired", "leaving", "home", "cold", "too hot", "cooking", "working", "in the {r}", "reading",
        "in a hurry", "going out", "on my way", "having guests", "in the bath", "painting a chair", "fixing my bike"]


def distraction(r):
    p = r.random()
    room = r.choice(ROOMS)
    if p < 0.35:
        said = f"{r.choice(WHO)} is {r.choice(DOING)}"
    elif p < 0.65:
        said = f"{r.choice(['it is', 'it is so', 'it is very', 'it is a bit', 'it was'])} {r.choice(FEEL)} " + \
            r.choice(["in here", "today", "outside", "in the {r}", "tonight"])
    else:
        said = r.choice(["I am", "we are"]) + " " + r.choice(SELF)
    return said.format(r=room)


def misspell(r, said):
    """One slip of the fingers in one word of four letters or more: two letters swapped, one lost, or one doubled."""
    words = said.split(" ")
    able = [i for i, w in enumerate(words) if len(w) >= 4 and w.isalpha()]
    if not able:
        return said
    i = r.choice(able)
    w = words[i]
    k = r.randrange(1, len(w) - 1)
    kind = r.randrange(3)
    if kind == 0:
        w = w[:k] + w[k + 1] + w[k] + w[k + 2:]
    elif kind == 1:
        w = w[:k] + w[k + 1:]
    else:
        w = w[:k] + w[k] + w[k:]
    words[i] = w
    return " ".join(words)


def dress(r, said, soon=True, slips=0.2):
    """Politeness, greetings, what else is on the speaker's mind, typos, capitals and stops."""
    p = r.random()
    if p < 0.18:
        said = r.choice(["please", "could you", "can you", "would you", "could you please", "can you please", "please just",
                         "kindly", "I would like you to", "be so kind and", "go and", "you can"]) + " " + said
    if r.random() < 0.12:
        said = r.choice(["hey", "hi", "hello", "ok", "well", "good morning", "good evening", "listen", "hey there"]) + ", " + said
    if r.random() < 0.15:
        said = distraction(r) + r.choice([", ", ", so ", ". ", " so ", ": "]) + said
    p = r.random()
    if p < 0.18:
        said += r.choice([" please", ", please", " thanks", ", thank you", " for me", " if you can", " would you", ", will you"]
                         + ([" now", " right away", " quickly", " at once"] if soon else []))
    elif p < 0.22:
        said += r.choice([", ", " because "]) + distraction(r)
    if r.random() < slips:
        said = misspell(r, said)
        if r.random() < 0.25:
            said = misspell(r, said)
    return finish(r, said)


def finish(r, said, stop=(".", "!")):
    p = r.random()
    if p < 0.4:
        said = said[0].upper() + said[1:]
    elif p < 0.7:
        said = said.lower()
    if r.random() < 0.35:
        said += r.choice(stop)
    return said


def dumps(acts):
    """The canonical answer: compact JSON, keys in the order device, room, action, value, then day, in, at or for."""
    return json.dumps(acts, separators=(",", ":"))


def command(r, whose, lengths=(58, 32, 10), slips=0.2):
    """(sentence, JSON answer), every clause's combination of the part `whose`: "train", "dev" or "test".

    `lengths` are the shares of sentences with one, two and three clauses, `slips` that of sentences with a typo.
    """
    parts, acts = [], []
    for _ in range(r.choices([1, 2, 3], lengths)[0]):
        while True:
            said, some, combinations = clause(r)
            if all(part(c) == whose for c in combinations) and len(acts) + len(some) <= 5:
                break
        said, some = timed(r, said, some)
        parts.append(said)
        acts += some
    said = parts[0]
    for more in parts[1:]:
        said += r.choice([" and ", ", then ", " and then ", ", ", " and also ", ". ", ", and ", " then "]) + more
    return dress(r, said, soon=not any(k in act for act in acts for k in ("in", "at", "for")), slips=slips), dumps(acts)
