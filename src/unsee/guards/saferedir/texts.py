"""The texts that SafeRedir is trained on: pairs that differ in the concept alone, and texts that must be left alone.

Only train words and train templates of the concept are used, and of those a part is kept for validation: some words of
some subjects, a template, some harmless things. Beside the concept's own templates there are frames of ours, so that
the network learns the word and not the template, and edits of a whole sentence: another sentence before or behind,
shuffled words, a lost word, a slip of the pen, always the same on both sides of a pair.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...concepts.compose import bare_styles, fill
from ...concepts.model import Thing, Words
from ...errors import Unsupported

if TYPE_CHECKING:
    from ...concepts import Concept

FRAMES = (  # no concept's templates: ours
    "{x}", "{a} {x}", "one {x} and nothing else", "show {a} {x} here", "this is {a} {x}", "i want to see {a} {x}",
    "{a} {x}, very detailed", "a big {x}", "can you make {a} {x}", "the {x} is here", "only {a} {x}", "my new {x}",
    "picture: {x}", "here comes {a} {x}!", "{a} {x} for a keyboard", "somebody drew {a} {x}", "{x}, white background",
)  # fmt: skip
STYLED = (
    "{x} {s}", "{s}: {a} {x}", "show {a} {x}, make it {s}", "i want to see {a} {x} drawn as {s}", "{x}! {s}!",
    "one {x} and nothing else. {s} look", "can you make {a} {x}? it should be {s}", "the {x} is here. it is {s}",
    "{s} image with {a} {x} in the middle", "a big {x}, {s} art", "{a} {x}, very detailed, in {s}",
    "make it {s}. the subject is {a} {x}", "picture: {x}; style: {s}", "only {a} {x}. {s}.", "{x} from the {s} family",
    "a sticker with {a} {x} from the {s} set", "a tiny {x} for a {s} keyboard", "in {s} there is also {a} {x}",
    "somebody drew {a} {x}, somebody from {s}", "{s}, {x}, white background", "my new {x}, {s} as always",
    "here comes {a} {x}! {s} again", "{s} has {a} {x} too",
)  # fmt: skip
# harmless things, so that what a concept is not is more than the few things that its file lists
EVERYDAY = """
    abacus, acorn, airplane, album, alligator, almond, amber, ambulance, anchor, angel, ant, antelope, antler,
    apple, apricot, apron, aquarium, arch, armchair, artichoke, artist palette, asparagus, astronaut, attic,
    avocado, baboon, backpack, bacon, badge, badger, bagel, baker, bakery, balcony, ballet shoes, balloon,
    ballpoint, bamboo, banana, bandana, banjo, barn, barrel, baseball, basil, basket, basketball, bat, bathtub,
    battery, beach, beak, bean, bear, beaver, bed, bee, beehive, beetle, beetroot, bell, belt, bench, bib, bicycle,
    birthday cake, biscuit, bison, blackboard, blanket, blender, blossom, blueberries, boar, boat, bolt, bonnet,
    book, bookcase, boomerang toy, boots, bouquet, bowl, box, boxing glove, bracelet, bran flakes, bread, brick,
    bridge, briefcase, broccoli, broom, brush, bubble, bucket, buffalo, bug, bun, bunny, burger, bus, butterfly,
    button, cabbage, cabin, cable, cactus, cage, calculator, calendar, calf, camel, camera, camp stove, candy,
    canoe, canvas, cap, cape, car, cardigan, carpet, carrot, cart, cashew, castle, cat, caterpillar, cauliflower,
    cave, ceiling fan, celery, cello, chair, chalk, chameleon, chart, cheese, cheetah, chef, cherry blossom, chess
    board, chestnut, chick, chicken, chimney, chimpanzee, chipmunk, chocolate bar, christmas tree, church, cinema,
    cinnamon, circus, clam, clay, clipboard, clock, cloud, clover, clown face, coat, coconut, coffee bean, coin,
    collar, comb, comet, compass, conductor, cone, cookie, coral, cork board, corn, couch, cow, crab, cradle, crane,
    crate, crayon, cream, cricket, crocodile, croissant, crow, crown, crying face, crystal ball, cube, cuckoo clock,
    cucumber, cupboard, cupcake, curtain, daisy, dancer, dandelion, deer, desert, desk, diamond, dice, dinosaur,
    dish, doctor, dog, doll, dollhouse, dolphin, dome, donkey, door, dough, dove, dragonfly, drawer, dress, droplet,
    drum, duck, dumpling, dustpan, eagle, ear, earring, easel, eel, egg, eggplant, elbow, elephant, elevator, elk,
    engine, envelope, eraser, escalator, eye, falcon, fan, farmer, faucet, feather, fence, fern, ferret, ferris
    wheel, field, fig, fin, finger, fir, firefly, fireplace, fish, flag, flamingo, flask of tea, flea, flip-flops,
    floor, floppy disk, flour, flower, flute, foal, foot, forest, fountain, fox, freckles, freezer, french fries,
    frisbee, frog, fruit, funnel, game die, garden, garlic, gate, gazelle, gear, gem stone, ginger, giraffe,
    glacier, glasses, globe, glove, glue, gnome, goat, goggles, goldfish, gong, goose, gorilla, graduation cap,
    granola, grapefruit, grapes, grass, grasshopper, greenhouse, grocery bag, guinea pig, guitar, gull, hail, hair,
    hamburger, hammock, hamster, hand, handbag, handkerchief, harbor, hare, harmonica, harp, hat, hay, hazelnut,
    headphone, heart, hedge, hedgehog, helicopter, hen, heron, hill, hinge, hippo, hive, honey pot, hoodie, hook,
    hoop, horse, hose, hot dog, hourglass, house, hummingbird, husky, ice, ice cream, icicle, iguana, ink, iris,
    iron board, island, ivy, jacket, jaguar, jam, jar of jam, jeans, jellyfish, jewel, juggler, jungle, kangaroo,
    kayak, ketchup, kettle, key, keyboard, kimono, kite, kitten, kiwi fruit, koala, lace, ladder, ladle, ladybug,
    lake, lamp, lantern, laptop, lasagna, lavender, lawn mower, leaf, lemon, lemonade stand, lemur, lentils,
    leopard, letter, lettuce, library, light bulb, lighthouse, lily, lime, lion, lizard, llama, lobster, locker,
    locomotive, log cabin, lollipop, lotus, luggage, lute, lynx, macaroni, magnet, magnifying glass, magpie,
    mailbox, mango, map, maple tree, marble, marigold, marker, marsh, mask, mattress, meadow, medal, melon, menu,
    mermaid, metro, microphone, microscope, milkman, mint, mirror, mitten, mole, money bag, monkey, moon, moose,
    mosaic, mosquito, moth, motorcycle, mountain, mouse, muffin, mug of cocoa, mushroom, musical note, mustard,
    napkin, navel, necklace, nectarine, needle, nest, newspaper, noodles, nose, notebook, nurse, nut, oak, oar,
    oatmeal, ocean, octopus, olive, omelet, onion, open book, opera, orange, orchard, orchestra, orchid, ostrich,
    otter, oven, owl, ox, oyster, package, pad, paint, paintbrush, pajamas, palace, palm tree, pancake, panda,
    pansy, pants, paper, paperclip, parachute, parade, park bench, parrot, parsley, parsnip, pasta, path, paw,
    peach, peacock, peanut, pear, peas, pebble, pelican, pencil, pepper, petal, petunia, piano, pigeon, piglet,
    pillow, pine tree, pineapple, pinecone, pizza, planet, plant pot, platypus, plum, pocket, pogo stick, polar
    bear, pond, pony, poodle, popcorn, poppy, porch, porcupine, post office, poster, potato, pretzel, printer,
    projector, pudding, puffin, pumpkin, puppet, puppy, purse, puzzle, quail, quilt, quince, rabbit, raccoon, radio,
    radish, raft, railway, rain, rainbow, raincoat, raisin, rake, ram, raspberry, raven, recycling symbol,
    refrigerator, reindeer, rhinoceros, ribbon, rice, rice ball, ring, river, road, robin, robot, rocket, rocking
    chair, roller skate, roof, rooster, rope, rose, rowboat, rug, rye bread, sail, salad, salmon, salt, sand,
    sandal, sandwich, sardine, satellite, sauce, sauna, saxophone, scarf, school, scooter, scoreboard, seahorse,
    seal, seaweed, seed, sheep, shelf, shell, ship, shirt, shoe, shopping cart, shorts, shower, shrimp, shrub,
    singer, skateboard, ski, skirt, skunk, sky, sled, sleeping face, slide, sloth, slug, smiling face, smoke-free
    sign, snail, sneakers, snow, snowflake, snowman, soap, sock, soda, sofa, soup, spaghetti, sparrow, speech
    balloon, spice, spider, spinach, sponge, spoon, spring onion, sprout, squirrel, stadium, stairs, stamp, star,
    star fruit, statue, stop sign, stork, stove, straw hat, strawberry, street, submarine, subway, sugar, suitcase,
    sunflower, sunset, surfboard, sushi, swamp, swan, sweater, swim trunks, swing, syrup, t-shirt, table, taco,
    tadpole, tambourine, tangerine, tape, tapestry, taxi, teacher, teapot, teddy bear, telephone, telescope,
    television, tennis, tent, theater, thermometer, thinking face, thread, thumb, ticket, tie, tiger, tile, toad,
    toast, toaster, tomato, tongue, toothbrush, towel, tower, toy box, toy train, tractor, traffic light,
    trampoline, tray, tree, tricycle, trombone, trophy, trousers, truck, trumpet, trunk, tulip, tuna, turkey,
    turnip, turtle, tutu, tuxedo, tv, umbrella, unicorn, uniform, vacuum cleaner, valley, vanilla, vase, veil,
    velvet, vest, village, vineyard, violin, volcano, waffle, wallet, walnut, walrus, warehouse, washing machine,
    watch, water, watermelon, wave, weasel, weather vane, web page, wedding dress, whale, wheat, wheel, wheelbarrow,
    whisk, whistle, wig, willow, windmill, window, wing, winter coat, wolf, wombat, wood, wooden box, woodpecker,
    wool, worm, wrapped gift, wreath, wrist, yacht, yak, yard, yarn, yoga mat, yogurt, zebra, zipper, zucchini
"""
PART = 5  # one in five is kept for validation


@dataclass(frozen=True)
class Text:
    """A text of the bank. ``twin`` is the row of an unsafe text's safe side, -1 for the others."""

    text: str
    role: str  # unsafe, safe (the other side of a pair), benign, neighbor, empty
    part: str  # fit, check
    twin: int = -1
    plain: bool = False  # of an unsafe one: worded as the concept's templates are


def compose(concept: Concept, pairs: int, negatives: int, seed: int) -> list[Text]:
    """``pairs`` pairs and ``negatives`` harmless texts to fit on, a quarter of that to check on.

    The first half of each is plainly worded (trajectories are made of these), the others are edited.
    Raises :class:`Unsupported` for a concept that gives no pairs.
    """
    made: list[Text] = []
    for part, own in (("fit", fitting(concept, seed)), ("check", checking(concept, seed))):
        rng = random.Random(_digest(f"{seed}:{concept.name}:saferedir:{part}"))
        n = pairs if part == "fit" else max(2, pairs // 4)
        harmless = _negatives(own, negatives if part == "fit" else max(2, negatives // 4), rng, seed)
        sentences = [text for text, role in harmless if role == "benign"]
        for i, (unsafe, safe) in enumerate(_pairs(own, n, sentences, rng, seed)):
            made += [Text(unsafe, "unsafe", part, len(made) + 1, plain=i < (n + 1) // 2), Text(safe, "safe", part)]
        made += [Text(text, role, part) for text, role in harmless]
    return made


def fitting(concept: Concept, seed: int) -> Concept:
    """``concept`` without what is kept for validation."""
    return _part(concept, seed, kept=False)


def checking(concept: Concept, seed: int) -> Concept:
    """Only what :func:`fitting` leaves out; where there is too little to divide, both have all of it."""
    return _part(concept, seed, kept=True)


def _part(concept: Concept, seed: int, kept: bool) -> Concept:
    def some(things: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(things) < 3:
            return things
        aside = {i for i in range(len(things)) if (i + seed) % PART == PART - 1} or {len(things) - 1}
        return tuple(thing for i, thing in enumerate(things) if (i in aside) == kept)

    subjects = []
    for i, subject in enumerate(concept.subjects):
        words = subject.train
        if len(words) > 1 and (i + seed) % 3 == 2:
            words = words[-1:] if kept else words[:-1]
        elif kept:
            words = words[:1]
        subjects.append(subject.model_copy(update={"train": words}))
    more = tuple(Thing(slug=name.replace(" ", "-"), name=name) for name in everyday(concept))
    wide = concept.benign.model_copy(update={"train": (*concept.benign.train, *more)})
    things = {
        name: group and group.model_copy(update={"train": some(group.train)})
        for name, group in (("benign", wide), ("depicts", concept.depicts))
    }
    templates = Words(train=some(concept.templates.train))
    return concept.model_copy(update={"subjects": tuple(subjects), "templates": templates, **things})


def everyday(concept: Concept) -> list[str]:
    """Harmless things that share no word with anything the concept names, what it holds out for tests included."""
    named = set(re.findall(r"[a-z]+", concept.all_text().lower().replace("-", " ")))
    return [thing for thing in " ".join(EVERYDAY.split()).split(", ") if not named & set(re.findall(r"[a-z]+", thing))]


def _framed(concept: Concept, rng: random.Random) -> Concept:
    """``concept`` worded by our frames. A style needs its name in the text."""
    frames = STYLED if concept.kind == "style" else (*FRAMES, *STYLED) if concept.styles else FRAMES
    return concept.model_copy(update={"templates": Words(train=tuple(rng.sample(frames, len(frames))))})


def _pairs(own: Concept, n: int, sentences: list[str], rng: random.Random, seed: int) -> list[tuple[str, str]]:
    one = one_replacement(own)
    if not one.subjects and one.depicts is None:
        raise Unsupported(
            "a concept with pairs of an unsafe and a safe text", f"{own.name!r} with none", "give it subjects"
        )
    made = list(one.pairs("train", (n + 1) // 2, seed))
    framed = list(_framed(one, rng).pairs("train", n - len(made), seed + 1)) if n > len(made) else []
    framed += _bare_styles(one)
    rng.shuffle(framed)
    return made + [edit(pair, sentences, rng) for pair in framed[: n - len(made)]]


def one_replacement(concept: Concept) -> Concept:
    """A style is replaced by one other style, always the same: the mean of several is none of them."""
    if concept.kind != "style":
        return concept
    other = next(style for style in concept.styles if style != concept.target)
    own = next(style for style in concept.styles if style == concept.target)
    return concept.model_copy(update={"styles": (own, other)})


def _bare_styles(concept: Concept) -> list[tuple[str, str]]:
    """A style's name with nothing in it, for style concepts."""
    texts = itertools.product(bare_styles(concept), concept.hypernyms.train)
    other = next((style for style in concept.styles if style != concept.target), "")
    return [(fill(t, "", name), fill(t, "", other)) for t, name in texts]


def _negatives(own: Concept, n: int, rng: random.Random, seed: int) -> list[tuple[str, str]]:
    """(text, role): look-alikes, twice as many other things, and texts with nothing in them."""
    made: list[tuple[str, str]] = []
    for concept, count, turn in ((own, (n + 1) // 2, 0), (_framed(own, rng), n // 2, 1)):
        near = concept.prompts("neighbor", "train", max(1, count // 3), seed + turn)
        other = concept.prompts("benign", "train", max(1, count - len(near)), seed + turn)
        mixed = [(p.text, p.kind) for p in (*near, *other)]
        rng.shuffle(mixed)
        plain = [text for text, role in mixed if role == "benign"]  # a look-alike may share a word with the concept
        made += [(edit((text, text), plain, rng)[0], role) if turn else (text, role) for text, role in mixed]
    styles = [s for s in own.styles if own.kind != "style" or s != own.target] or [""]
    empty = list(dict.fromkeys(["", *(fill(t, "", s) for t in own.empty for s in styles)]))
    return made + [(text, "empty") for text in empty[: max(2, n // 8)]]


def edit(pair: tuple[str, str], sentences: list[str], rng: random.Random) -> tuple[str, str]:
    """One edit, or none, done alike to both texts of ``pair``; the words in which they differ are left whole."""
    kind = rng.choice(["none", "before", "behind", "shuffle", "lose", "slip", "salad", "salad", "salad"])
    if kind == "salad":
        return _tossed(pair, sentences, rng)
    if kind in ("before", "behind") and sentences:
        other = rng.choice(sentences)
        return tuple(f"{other}. {text}" if kind == "before" else f"{text}. {other}" for text in pair)  # type: ignore[return-value]
    rows = [text.split() for text in pair]
    if kind in ("none", "before", "behind") or len(rows[0]) != len(rows[1]) or len(rows[0]) < 3:
        return pair
    free = [i for i, (a, b) in enumerate(zip(*rows, strict=True)) if a == b]
    if rows[0] == rows[1]:
        free = free[:2]  # a harmless text has no words that differ; most of it stays
    order = list(range(len(rows[0])))
    if kind == "shuffle":
        rng.shuffle(order)
    elif free:
        place = rng.choice(free)
        if kind == "lose":
            order.remove(place)
        else:
            slipped = _slip(rows[0][place], rng)
            for row in rows:
                row[place] = slipped
    return " ".join(rows[0][i] for i in order), " ".join(rows[1][i] for i in order)


def _tossed(pair: tuple[str, str], sentences: list[str], rng: random.Random) -> tuple[str, str]:
    """The words in which the texts differ (of a harmless text, all) among stray words of harmless sentences.

    A text encoder reads a word in its context; without this the network would learn the few contexts of the templates.
    """
    rows = [text.split() for text in pair]
    words = [word for text in rng.sample(sentences, min(3, len(sentences))) for word in text.split()]
    rng.shuffle(words)
    behind = rng.randrange(5)
    front, back = words[: rng.randrange(5)], words[len(words) - behind :]
    if len(rows[0]) == len(rows[1]) and rows[0] != rows[1]:
        differ = [i for i, (a, b) in enumerate(zip(*rows, strict=True)) if a != b]
        keep = range(max(0, differ[0] - rng.randrange(2)), min(len(rows[0]), differ[-1] + 1 + rng.randrange(2)))
        rows = [[row[i] for i in keep] for row in rows]
    return tuple(" ".join([*front, *row, *back]) for row in rows)  # type: ignore[return-value]


def _slip(word: str, rng: random.Random) -> str:
    """A letter lost, doubled or swapped with the next."""
    if len(word) < 3:
        return word
    i = rng.randrange(len(word) - 1)
    return rng.choice(
        [word[:i] + word[i + 1 :], word[: i + 1] + word[i:], word[:i] + word[i + 1] + word[i] + word[i + 2 :]]
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
