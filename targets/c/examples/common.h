/* What the examples share: reading a file, and giving up with an error's text. */
#ifndef COMMON_H
#define COMMON_H

#include <stdio.h>
#include <stdlib.h>
#include "drupe.h"

static inline void give_up(const char *what, int code, const char *details) {
    fprintf(stderr, "%s: %s%s%s\n", what, drupe_error_text(code), details && *details ? ": " : "", details ? details : "");
    exit(1);
}

static inline void check(drupe *d, const char *what, int code) {
    char text[256] = "";
    if (code != DRUPE_OK) {
        drupe_last_error(d, text, sizeof text);
        give_up(what, code, text);
    }
}

static inline unsigned char *read_file(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    unsigned char *bytes;
    long size;
    if (!f || fseek(f, 0, SEEK_END) != 0 || (size = ftell(f)) < 0) {
        perror(path);
        exit(1);
    }
    rewind(f);
    bytes = (unsigned char *)malloc((size_t)size);
    if (!bytes || fread(bytes, 1, (size_t)size, f) != (size_t)size) {
        fprintf(stderr, "%s: cannot be read whole\n", path);
        exit(1);
    }
    fclose(f);
    *len = (size_t)size;
    return bytes;
}

/* Plans, takes that much memory, builds a handle in it. */
static inline drupe *start_parts(const drupe_bytes *parts, size_t count, uint32_t ctx, uint32_t batch, uint32_t workers,
                          void **memory) {
    char message[256] = "";
    drupe_options options;
    drupe_plan_info plan;
    drupe *d = NULL;
    int code = drupe_options_init(&options, sizeof options);
    if (code != DRUPE_OK) give_up("options", code, "");
    options.ctx = ctx;
    options.batch = batch;
    options.workers = workers;
    options.message = message;
    options.message_size = sizeof message;
    plan.struct_size = sizeof plan;
    code = drupe_plan(parts, count, &options, &plan);
    if (code != DRUPE_OK) give_up("plan", code, message);
    *memory = malloc((size_t)plan.memory + plan.alignment);
    if (!*memory) give_up("memory", DRUPE_E_MEMORY, "");
    code = drupe_init(*memory, (size_t)plan.memory + plan.alignment, parts, count, &options, NULL, &d);
    if (code != DRUPE_OK) give_up("init", code, message);
    return d;
}

/* The same for a model in one file. */
static inline drupe *start(const void *model, size_t len, uint32_t ctx, uint32_t batch, uint32_t workers, void **memory) {
    drupe_bytes part;
    part.data = model;
    part.len = len;
    return start_parts(&part, 1, ctx, batch, workers, memory);
}

#endif
