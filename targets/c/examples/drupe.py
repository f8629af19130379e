"""The hosted shared library from Python, with nothing but ctypes: python3 drupe.py libdrupe.so MODEL.gguf [TEXT]"""
import ctypes as c
import sys

class Options(c.Structure):
    _fields_ = [(n, c.c_uint32) for n in ("struct_size", "ctx", "batch", "kv", "sinks", "workers", "flags", "max_text")]
    _fields_ += [("message", c.c_char_p), ("message_size", c.c_size_t)]

class Bytes(c.Structure):
    _fields_ = [("data", c.c_char_p), ("len", c.c_size_t)]

class Plan(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("alignment", c.c_uint32)]
    _fields_ += [(n, c.c_uint64) for n in ("memory", "kv", "tables")]
    _fields_ += [(n, c.c_uint32) for n in ("ctx", "vocab", "width", "layers", "train_ctx", "reserved")]

lib = c.CDLL(sys.argv[1])
lib.drupe_error_text.restype = c.c_char_p
Say = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(c.c_char), c.c_size_t)

def check(code):
    if code != 0:
        sys.exit(lib.drupe_error_text(code).decode())

model = open(sys.argv[2], "rb").read()
text = (sys.argv[3] if len(sys.argv) > 3 else "Once upon a time").encode()
options, plan = Options(struct_size=c.sizeof(Options)), Plan(struct_size=c.sizeof(Plan))
check(lib.drupe_options_init(c.byref(options), c.c_size_t(options.struct_size)))
options.ctx, handle = 512, c.c_void_p()
part, one = Bytes(model, len(model)), c.c_size_t(1)
check(lib.drupe_plan(c.byref(part), one, c.byref(options), c.byref(plan)))
memory = c.create_string_buffer(plan.memory + plan.alignment)
check(lib.drupe_init(memory, c.c_size_t(len(memory)), c.byref(part), one, c.byref(options), None, c.byref(handle)))
tokens, count, said = (c.c_uint32 * 512)(), c.c_size_t(), c.c_uint64()
check(lib.drupe_tokenize(handle, text, c.c_size_t(len(text)), 2, tokens, c.c_size_t(512), c.byref(count)))
check(lib.drupe_feed(handle, tokens, count))
say = Say(lambda user, piece, n: sys.stdout.buffer.write(piece[:n]) and 0)
check(lib.drupe_generate(handle, c.c_uint64(60), say, None, c.byref(said)))
print(flush=True)
