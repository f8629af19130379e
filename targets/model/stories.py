"""Small children's stories from a story grammar: a hero, a place, a wish or a trouble, a friend, an ending.

`story(r)` gives (words to ask for it with, text). Each plot is a list of moments; each moment is a list of sentences to
choose from, filled with the story's people, things and places, so that the same names and things run through a story.
"""

CHILDREN = [("Mia", "girl", "she"), ("Tom", "boy", "he"), ("Lily", "girl", "she"), ("Max", "boy", "he"), ("Anna", "girl", "she"),
            ("Ben", "boy", "he"), ("Zoe", "girl", "she"), ("Sam", "boy", "he"), ("Ella", "girl", "she"), ("Leo", "boy", "he"),
            ("Nora", "girl", "she"), ("Finn", "boy", "he")]
ANIMALS = ["fox", "rabbit", "bear", "mouse", "cat", "dog", "duck", "frog", "owl", "hedgehog", "squirrel", "goat"]
PETS = [("Pip", "he"), ("Dot", "she"), ("Bruno", "he"), ("Coco", "she"), ("Rusty", "he"), ("Luna", "she"), ("Otto", "he"),
        ("Minnie", "she")]
MOODS = ["little", "brave", "curious", "shy", "kind", "clever", "cheerful", "quiet", "young", "sleepy"]
PLACES = ["near the forest", "by the sea", "on a farm", "in a small village", "by a river", "on a green hill",
          "next to a lake", "in a yellow house", "at the edge of the town", "under a big tree"]
OUT = ["the forest", "the park", "the meadow", "the beach", "the garden", "the hill", "the river", "the orchard"]
THINGS = ["red ball", "blue hat", "wooden boat", "yellow kite", "silver bell", "toy train", "warm scarf", "picture book",
          "green bucket", "shiny stone", "tiny drum", "paper plane"]
FOODS = ["apple pie", "honey cake", "pancakes", "vegetable soup", "fresh bread", "berry jam", "cookies", "plum tart"]
DAYS = ["One morning", "One day", "One sunny day", "One windy day", "On a cold day", "One afternoon", "On a rainy day",
        "Early in the spring"]
WEATHER = ["the sun was shining", "the wind was blowing", "the birds were singing", "the air was fresh",
           "small clouds crossed the sky", "the leaves were falling"]
HIDES = ["under a bush", "behind a rock", "in the tall grass", "up in a tree", "beside the path", "under an old bench",
         "between two stones", "in a hollow log"]
FEARS = ["the dark", "thunder", "deep water", "loud noises", "high places"]
LESSONS = {
    "lost": ["{N} learned that it is good to ask for help.", "From that day on, {N} took good care of the {thing}.",
             "{N} was glad to have such a good friend."],
    "share": ["{N} learned that sharing makes everybody happy.", "From then on, {N} always shared with {f}.",
              "A thing that is shared is twice as much fun, {N} thought."],
    "fear": ["{N} was not afraid of {fear} any more.", "{N} learned that being brave means trying.",
             "That night {N} slept well and dreamed of stars."],
    "make": ["{N} learned that good work takes time.", "Everybody was proud of {N}.", "It was the best day of the year."],
    "help": ["{N} learned that even small friends can help a lot.", "{f} never forgot how kind {N} was.",
             "From that day on they were best friends."],
    "rain": ["{N} learned that a rainy day can be a good day.", "They were almost sad when the rain stopped.",
             "{N} hoped that it would rain again soon."],
}

OPEN = ["Once upon a time there was a {mood} {kind} named {N} who lived {place}.",
        "{N} was a {mood} {kind}. {S} lived {place}.", "Once there was a {mood} {kind} called {N}. {S} lived {place}.",
        "There was once a {mood} {kind} named {N}. {S} had a home {place}."]
LIKED = ["{S} loved to play in {out}.", "Every day {s} went to {out}.", "{S} liked to walk in {out} and look at the flowers.",
         "{S} had a good friend named {f}, {fa}.", "{S} often played with {p} friend {f}, {fa}."]
MEET = ["Just then {f}, {fa}, came along.", "Soon {s} met {f}, {fa}.", "Then {f}, {fa}, came by and stopped."]
TALK = ['"What is wrong?" asked {f}.', '"Why are you so sad?" asked {f}.', '"Can I help you?" asked {f}.']
END = ["Then they went home together.", "In the evening they went home, tired and happy.",
       "They laughed and danced until the sun went down.", "And they ate some {food} together.",
       "At home there was {food} for everybody.", "{N} smiled all the way home."]

PLOTS = {
    "lost": [OPEN, ["{S} had a {thing} and took it everywhere.", "{P} favorite thing in the world was a {thing}.",
                    "{P} grandmother had given {o} a {thing}."],
             ["{D}, {weather} and {N} went to {out}.", "{D} {s} took the {thing} to {out}.",
              "{D} {N} played with the {thing} in {out}."],
             ["When {s} looked around, the {thing} was gone.", "But on the way {s} lost the {thing}.",
              "Suddenly {s} could not find the {thing} any more."],
             ["{N} looked everywhere and began to cry.", "{S} looked here and there, but {s} did not see it.",
              "{S} sat down and felt very sad."], MEET, TALK,
             ['"I have lost my {thing}," said {N}.', '"My {thing} is gone," said {N}.', '"I cannot find my {thing}," {s} said.'],
             ['"Do not worry, we will look for it together," said {f}.', '"Let us look again," said {f}.',
              '"Two can see more than one," said {f}.'],
             ["They looked for a long time, and at last they found it {hide}.", "And there it was, {hide}!",
              "After a while {f} saw something {hide}. It was the {thing}!"],
             ['"Thank you, {f}!" said {N}.', "{N} hugged {f}.", '"You are a true friend," said {N}.'], END, LESSONS["lost"]],
    "share": [OPEN, LIKED, ["{D} {N} found a {thing} {hide}.", "{D} {N} got a new {thing}.", "{D} {p} mother gave {o} a {thing}."],
              ["{N} was very happy and played with it all morning.", "It was the nicest {thing} that {s} had ever seen.",
               "{S} did not want to put it down."], MEET,
              ['"What a nice {thing}! May I play with it too?" asked {f}.', '"May I have a turn?" asked {f}.',
               '"Can we play together?" asked {f}.'],
              ['"No, it is mine," said {N}.', "{N} held the {thing} tight and said no.", '"Not now," said {N}.'],
              ["{f} was sad and walked away.", "{f} went away with {fp} head down.", "{f} said nothing and sat down alone."],
              ["After a while {N} was bored, for it was no fun to play alone.", "But playing alone was not much fun.",
               "{N} saw how sad {f} was and felt sorry."],
              ['"I am sorry," {s} said. "Come and play with me."', '{S} ran to {f} and said, "You can have a turn now."',
               '"Let us play with it together," said {N}.'],
              ["{f} jumped for joy and they played all day.", "So they took turns, and it was great fun.",
               "They laughed and played until it was late."], END, LESSONS["share"]],
    "fear": [OPEN, ["{N} was afraid of {fear}.", "There was one thing that {s} did not like: {fear}.",
                    "{S} was brave, but {s} was afraid of {fear}."],
             ["{D} {N} had to go through {out} alone.", "{D} {s} was on the way home from {out}.",
              "{D} {s} wanted to visit {p} grandmother behind {out}."],
             ["{P} heart beat fast and {p} knees were weak.", "{S} stopped and did not dare to go on.",
              "{S} wanted to run away and hide."], MEET, TALK,
             ['"I am afraid of {fear}," said {N}.', '"It is {fear}," {s} said very softly.', '"I do not like {fear}," said {N}.'],
             ['"I was afraid once too," said {f}. "Take my hand and count to ten."',
              '"Then we will go together, step by step," said {f}.', '"Sing a song with me, it helps," said {f}.'],
             ["{N} took a deep breath and tried it.", "So {N} closed {p} eyes for a moment and then went on.",
              "{N} nodded, and slowly they went on."],
             ["After a while it was not so bad at all.", "Step by step {s} felt better.", "And really, nothing bad happened."],
             ['"I did it!" cried {N}.', '"Thank you for your help," said {N}.', '"That was easy!" said {N} and laughed.'],
             END, LESSONS["fear"]],
    "make": [OPEN, LIKED, ["{D} {N} wanted to make {food} for {p} grandmother.", "{D} {s} wanted to make {food} for the whole family.",
                           "{D} {s} had an idea: {s} wanted to make {food} for {f}."],
             ["{S} went to {out} to find what {s} needed.", "{S} put on an apron and washed {p} hands.",
              "{S} looked for the biggest pot in the kitchen."],
             ["But the first try was too salty.", "But {s} forgot to look at the clock and it got burned.",
              "But the flour fell down and everything was white."],
             ["{N} was close to tears.", '"Oh no!" said {N}.', "{N} sat down on the floor and sighed."], MEET,
             ['"Do not give up," said {f}. "We can try again together."', '"I know how to do it," said {f}.',
              '"Let me help you," said {f} and smiled.'],
             ["So they cleaned up and started again.", "They worked side by side all afternoon.",
              "{N} stirred and {f} looked at the clock."],
             ["At last it was ready, and it smelled wonderful.", "This time everything went well.",
              "When it was done, they tasted it. It was perfect!"],
             ["They all sat down at the table and ate.", "Everybody wanted to have some more.",
              "There was enough for everyone."], LESSONS["make"]],
    "help": [OPEN, LIKED, ["{D}, {weather} and {N} went for a walk in {out}.", "{D} {N} walked through {out}.",
                           "{D} {s} heard a small voice in {out}."],
             ["There {s} met {f}, {fa}, who was stuck {hide}.", "There sat {f}, {fa}, with a hurt foot.",
              "{S} saw {f}, {fa}, who could not find the way home."],
             ['"Please help me," said {f}.', '"Can you help me?" asked {f}.', '"I have been here all day," said {f}.'],
             ["{N} thought for a moment.", "{N} did not wait long.", '"Of course I will help you," said {N}.'],
             ["{S} pulled with all {p} might, and at last it was done.", "{S} fetched some water and a soft blanket.",
              "Carefully {s} helped {f} to get up."],
             ["{f} was very thankful.", '"Thank you so much," said {f}.', "{f} gave {o} a small {thing} to say thank you."],
             ["Some days later {N} was in trouble and fell into a deep hole.", "A week later {N} lost the way in the fog.",
              "Not long after, {N} could not get across the water."],
             ["{f} heard {o} call and came at once.", "Who came to help? It was {f}!", "Then {f} came and showed {o} the way."],
             END, LESSONS["help"]],
    "rain": [OPEN, LIKED, ["{D} it began to rain, and {N} could not go to {out}.", "{D} dark clouds came and it rained and rained.",
                           "{D} {s} wanted to go to {out}, but it was raining."],
             ["{N} looked out of the window and was bored.", '"What can I do now?" thought {N}.', "{S} sat by the window and sighed."],
             ["Then there was a knock at the door. It was {f}, {fa}.", "Soon {f}, {fa}, came to visit.",
              "Then {s} heard {f}, {fa}, outside."],
             ['"Let us build a tent of blankets," said {f}.', '"I have an idea," said {f}. "We can make a boat out of a box."',
              '"We can look for treasure in the attic," said {f}.'],
             ["They found a lamp, two pillows and a {thing}.", "They used chairs, ropes and a {thing}.",
              "In an old box they found a {thing}."],
             ["They played that they were sailing across the sea.", "They told each other stories about dragons and stars.",
              "They pretended to live in a castle."],
             ["{N} had never had so much fun.", "They forgot all about the rain.", "The hours went by very fast."],
             ["Then they had {food} and warm milk.", "{P} mother brought them {food}.", "At last the sun came out again."],
             LESSONS["rain"]],
}


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def story(r):
    """(topic words, story): the topic names the hero and what the story turns on."""
    plot = r.choice(list(PLOTS))
    friend = r.choice(ANIMALS)
    fname, fhe = r.choice(PETS)
    if r.random() < 0.55:
        name, kind, he = r.choice(CHILDREN)
    else:
        (name, he), kind = r.choice([p for p in PETS if p[0] != fname]), r.choice([a for a in ANIMALS if a != friend])
    words = {"N": name, "kind": kind, "s": he, "S": he.capitalize(), "p": {"he": "his", "she": "her"}[he],
             "P": {"he": "His", "she": "Her"}[he], "o": {"he": "him", "she": "her"}[he],
             "f": fname, "fp": {"he": "his", "she": "her"}[fhe], "fa": article(friend), "mood": r.choice(MOODS),
             "place": r.choice(PLACES), "out": r.choice(OUT), "thing": r.choice(THINGS), "food": r.choice(FOODS),
             "D": r.choice(DAYS), "weather": r.choice(WEATHER), "hide": r.choice(HIDES), "fear": r.choice(FEARS)}
    lines = []
    for moment in PLOTS[plot]:
        line = r.choice(moment)
        if moment is END and plot in ("lost", "share", "help", "fear") and r.random() < 0.4:
            continue
        if moment is MEET and any("{f}" in x and "{fa}" in x for x in lines):
            line = r.choice(["Just then {f} came along.", "Soon {s} met {f}.", "Then {f} came by and stopped."])
        if plot in ("help", "rain") and moment is LIKED:
            line = r.choice(LIKED[:3])
        lines.append(line)
    text = " ".join(line.format(**words) for line in lines)
    topic = {"lost": f"a lost {words['thing']}", "share": f"sharing a {words['thing']}", "fear": f"{words['fear']}",
             "make": words["food"], "help": f"a friend named {fname}", "rain": "a rainy day"}[plot]
    who = r.choice([name, f"{article(kind)} named {name}", article(kind), article(f"{words['mood']} {kind}")])
    return r.choice([who, who, f"{who} and {topic}", topic]), text


ASK = ["Tell me a story about {}.", "tell me a story about {}", "Please tell me a story about {}.", "a story about {} please",
       "Can you tell me a story about {}?", "I want to hear a story about {}", "Tell the children a story about {}.",
       "Read me a story about {}.", "bedtime story about {}"]
ASK_ANY = ["Tell me a story.", "tell me a story", "Tell me a bedtime story please.", "Can you tell me a story?", "a story please"]


def asked_story(r):
    """(request, story)."""
    topic, text = story(r)
    return (r.choice(ASK).format(topic) if r.random() < 0.85 else r.choice(ASK_ANY)), text
