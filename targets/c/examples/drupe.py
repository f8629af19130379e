"""The hosted shared library from Python, with nothing but ctypes: python3 drupe.py libdrupe.so MODEL.gguf [TEXT [MIB]]

The process stays within MIB of memory, or else within what the machine allows: what does not fit is read as it is needed.
"""
import ctypes as c
import sys

class Options(c.Structure):
    _fields_ = [(n, c.c_uint32) for n in ("struct_size", "ctx", "batch", "kv", "sinks", "workers", "flags", "max_text")]
    _fields_ += [("message", c.c_char_p), ("message_size", c.c_size_t), ("memory", c.c_uint64)]

class BudgetInfo(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("asked", c.c_uint32)]
    _fields_ += [(n, c.c_uint64) for n in ("limit", "beside", "resident", "streamed")] + [("line", c.c_char_p)]

class Plan(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("alignment", c.c_uint32)]
    _fields_ += [(n, c.c_uint64) for n in ("memory", "kv", "tables")]
    _fields_ += [(n, c.c_uint32) for n in ("ctx", "vocab", "width", "layers", "train_ctx", "reserved")]

lib = c.CDLL(sys.argv[1])
lib.drupe_error_text.restype = c.c_char_p
Say = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(c.c_char), c.c_size_t)

handle, text = c.c_void_p(), c.create_string_buffer(256)

def check(code):
    if code != 0:
        if handle:
            lib.drupe_last_error(handle, text, c.c_size_t(len(text)))
        sys.exit(f"{lib.drupe_error_text(code).decode()}: {text.value.decode()}")

prompt = (sys.argv[3] if len(sys.argv) > 3 else "Once upon a time").encode()
file, parts, files = c.c_void_p(), c.c_void_p(), c.c_size_t()
path = c.c_char_p(sys.argv[2].encode())
check(lib.drupe_file_open(path, c.byref(file), c.byref(parts), c.byref(files), text, c.c_size_t(len(text))))
options, plan = Options(struct_size=c.sizeof(Options)), Plan(struct_size=c.sizeof(Plan))
check(lib.drupe_options_init(c.byref(options), c.c_size_t(options.struct_size)))
options.ctx, options.memory = 512, int(sys.argv[4]) << 20 if len(sys.argv) > 4 else 0
options.message, options.message_size = c.cast(text, c.c_char_p), len(text)
check(lib.drupe_plan(parts, files, c.byref(options), c.byref(plan)))
memory = c.create_string_buffer(plan.memory + plan.alignment)
check(lib.drupe_init(memory, c.c_size_t(len(memory)), parts, files, c.byref(options), None, c.byref(handle)))
budget, info = c.c_void_p(), BudgetInfo(struct_size=c.sizeof(BudgetInfo))
check(lib.drupe_budget_open(handle, file, c.c_uint64(0), c.byref(budget)))
check(lib.drupe_use_budget(handle, budget))
check(lib.drupe_budget_get_info(budget, c.byref(info)))
print(info.line.decode(), file=sys.stderr)
tokens, count, said = (c.c_uint32 * 512)(), c.c_size_t(), c.c_uint64()
check(lib.drupe_tokenize(handle, prompt, c.c_size_t(len(prompt)), 2, tokens, c.c_size_t(512), c.byref(count)))
check(lib.drupe_feed(handle, tokens, count))
say = Say(lambda user, piece, n: sys.stdout.buffer.write(piece[:n]) and 0)
check(lib.drupe_generate(handle, c.c_uint64(60), say, None, c.byref(said)))
print(flush=True)
