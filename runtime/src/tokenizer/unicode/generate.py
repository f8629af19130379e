#!/usr/bin/env python3
"""Writes tables.rs: the class of every Unicode code point, in two stages.

Run in this folder with `unicodedata2` installed for the version named in the output, else with the interpreter's own
`unicodedata`. Classes are numbered as `Class` in mod.rs.
"""

try:
    import unicodedata2 as ucd
except ImportError:
    import unicodedata as ucd

BLOCK = 128
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
LETTERS = {"Lu": 1, "Ll": 2, "Lt": 3, "Lm": 4, "Lo": 5}
OTHERS = {"M": 6, "N": 7, "P": 8, "S": 9}
SPACE = 10


def class_of(cp):
    if cp in WHITE_SPACE:
        return SPACE
    category = ucd.category(chr(cp))
    return LETTERS.get(category) or OTHERS.get(category[0], 0)


classes = [class_of(cp) for cp in range(0x110000)]
# Beyond the last ideographs only the variation selectors have a class (marks); mod.rs knows them.
end = 1 + max(cp for cp, c in enumerate(classes) if c and not 0xE0100 <= cp <= 0xE01EF)
assert all(classes[cp] == 6 for cp in range(0xE0100, 0xE01F0))
end = -(-end // BLOCK) * BLOCK
blocks, stage = {}, []
for start in range(0, end, BLOCK):
    block = tuple(classes[start : start + BLOCK])
    stage.append(blocks.setdefault(block, len(blocks)))
assert len(blocks) <= 256
packed = [lo | hi << 4 for block in blocks for lo, hi in zip(block[::2], block[1::2])]


def rows(numbers):
    text = [str(n) for n in numbers]
    lines, line = [], "   "
    for item in text:
        if len(line) + len(item) + 2 > 120:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join(lines + [line])


with open("tables.rs", "w") as out:
    out.write(f"//! Written by generate.py from Unicode {ucd.unidata_version}: not to be edited.\n\n")
    out.write(f"/// Code points of a block.\npub(super) const BLOCK: usize = {BLOCK};\n\n")
    out.write("/// Number of the block in [`CLASSES`] for each block of code points.\n#[rustfmt::skip]\n")
    out.write(f"pub(super) static STAGE: [u8; {len(stage)}] = [\n{rows(stage)}\n];\n\n")
    out.write("/// Classes, two to a byte, the even code point in the low half.\n#[rustfmt::skip]\n")
    out.write(f"pub(super) static CLASSES: [u8; {len(packed)}] = [\n{rows(packed)}\n];\n")
