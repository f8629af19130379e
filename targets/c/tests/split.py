"""Splits a GGUF file into two, as gguf-split does: python3 split.py MODEL.gguf OUT (writes OUT-0000N-of-00002.gguf)"""
import struct
import sys

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
data = open(sys.argv[1], "rb").read()


def number(code, at):
    return struct.unpack_from("<" + code, data, at)[0]


def text_end(at):
    return at + 8 + number("Q", at)


def value_end(kind, at):
    if kind == 8:
        return text_end(at)
    if kind != 9:
        return at + SIZES[kind]
    kind, count, at = number("I", at), number("Q", at + 4), at + 12
    if kind != 8:
        return at + SIZES[kind] * count
    for _ in range(count):
        at = text_end(at)
    return at


tensors, keys, at = number("Q", 8), number("Q", 16), 24
for _ in range(keys):
    kind_at = text_end(at)
    at = value_end(number("I", kind_at), kind_at + 4)
pairs = data[24:at]
entries = []
for _ in range(tensors):
    start, dims_at = at, text_end(at)
    offset_at = dims_at + 4 + 8 * number("I", dims_at) + 4
    entries.append((data[start:offset_at], number("Q", offset_at)))
    at = offset_at + 8
body = data[-(-at // 32) * 32 :]
ends = [offset for _, offset in entries[1:]] + [len(body)]


def pair(name, kind, code, value):
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I" + code, kind, value)


half = tensors // 2
for part, chosen in enumerate([range(half), range(half, tensors)]):
    own = pair("split.no", 2, "H", part) + pair("split.count", 2, "H", 2) + pair("split.tensors.count", 5, "i", tensors)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(chosen), 3 + (0 if part else keys)) + (b"" if part else pairs) + own
    first = entries[chosen[0]][1]
    for i in chosen:
        head += entries[i][0] + struct.pack("<Q", entries[i][1] - first)
    head += b"\0" * (-len(head) % 32)
    with open(f"{sys.argv[2]}-0000{part + 1}-of-00002.gguf", "wb") as out:
        out.write(head + body[first : ends[chosen[-1]]])
