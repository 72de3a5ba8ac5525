"""Harmless things of every day, and other wordings than a concept's templates: there is more than its file lists."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

from .description import Thing, Words

if TYPE_CHECKING:
    from .concept import Concept

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


def everyday(concept: Concept) -> tuple[Thing, ...]:
    """Those that share no word with anything the concept names, what it holds out for tests included."""
    named = _words(concept.all_text())
    things = [name for name in " ".join(EVERYDAY.split()).split(", ") if not named & _words(name)]
    return tuple(Thing(slug=name.replace(" ", "-"), name=name) for name in things)


def framed(concept: Concept, rng: random.Random) -> Concept:
    """``concept`` worded by our frames, in random order. A style needs its name in the text."""
    frames = STYLED if concept.kind == "style" else (*FRAMES, *STYLED) if concept.styles else FRAMES
    return concept.model_copy(update={"templates": Words(train=tuple(rng.sample(frames, len(frames))))})


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower().replace("-", " ")))
