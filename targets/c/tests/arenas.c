/* Memory short of enough: every size from 0 to needed - 1 (sampled; all of the last 4 KiB) is refused with the needed size, and
 * nothing is written, inside or outside. Exactly enough is enough, aligned or not. Usage: arenas MODEL.gguf... */
#include <string.h>
#include "../examples/common.h"

#define ROOM 64
#define PAINT 0x5A

static void painted(const unsigned char *from, size_t len, const char *what, size_t given) {
    size_t i;
    for (i = 0; i < len; i++) {
        if (from[i] != PAINT) {
            fprintf(stderr, "%lu bytes given: written %s\n", (unsigned long)given, what);
            exit(1);
        }
    }
}

static void arenas(const char *path) {
    char message[256] = "";
    drupe_options options;
    drupe_plan_info plan, said;
    drupe_bytes part;
    size_t len, given, needed, offset, tried = 0;
    unsigned char *model = read_file(path, &len), *memory, *start;
    uint32_t token = 1;
    uint64_t count;
    drupe *d = NULL;
    drupe_options_init(&options, sizeof options);
    options.ctx = 16;
    options.batch = 2;
    options.max_text = 64;
    options.message = message;
    options.message_size = sizeof message;
    part.data = model;
    part.len = len;
    said.struct_size = plan.struct_size = sizeof plan;
    if (drupe_plan(&part, 1, &options, &plan) != DRUPE_OK) give_up(path, 0, message);
    needed = (size_t)plan.memory;
    memory = (unsigned char *)malloc(needed + 3 * ROOM);
    if (!memory) give_up(path, DRUPE_E_MEMORY, "");
    start = memory + ROOM;
    start += (64 - (uintptr_t)start % 64) % 64;
    memset(memory, PAINT, needed + 3 * ROOM);

    for (given = 0; given < needed; given += given + 4096 < needed ? 1 + needed / 300 : 1) {
        said.memory = 0;
        if (drupe_init(start, given, &part, 1, &options, &said, &d) != DRUPE_E_MEMORY || d || said.memory != needed) {
            fprintf(stderr, "%lu of %lu bytes were not refused\n", (unsigned long)given, (unsigned long)needed);
            exit(1);
        }
        /* What is near the ends each time; all of it now and then, and at the end. */
        painted(start - ROOM, 2 * ROOM, "at the start", given);
        painted(start + given - (given < ROOM ? given : ROOM), ROOM, "at the end", given);
        if (tried++ % 64 == 0 || given + 1 == needed) painted(memory, needed + 3 * ROOM, "somewhere", given);
    }

    for (offset = 0; offset < 64; offset += 21) {
        given = needed + (offset ? 64 - offset : 0);
        memset(memory, PAINT, needed + 3 * ROOM);
        if (offset && drupe_init(start + offset, given - 1, &part, 1, &options, NULL, &d) != DRUPE_E_MEMORY) exit(1);
        if (drupe_init(start + offset, given, &part, 1, &options, NULL, &d) != DRUPE_OK) give_up(path, 0, message);
        check(d, "feed", drupe_feed(d, &token, 1));
        check(d, "generate", drupe_generate(d, 20, NULL, NULL, &count));
        painted(memory, (size_t)(start - memory) + offset, "before", given);
        painted(start + offset + given, (size_t)(memory + needed + 3 * ROOM - (start + offset + given)), "after", given);
    }
    free(memory);
    free(model);
    printf("ok: %lu short arenas refused, %lu bytes suffice\n", (unsigned long)tried, (unsigned long)needed);
}

int main(int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++) arenas(argv[i]);
    return argc > 1 ? 0 : 2;
}
