/* No heap at all: the model is linked in as bytes, the memory is a static array. Link it with the freestanding library; the test
 * puts a trap in place of malloc. MODEL_START and MODEL_END are made by the linker (ld -r -b binary, or .incbin). */
#include "drupe.h"

extern const unsigned char model_start[];
extern const unsigned char model_end[];

#ifndef ARENA_BYTES
#define ARENA_BYTES (4u << 20)
#endif

static unsigned char arena[ARENA_BYTES];

/* The only things asked of the platform: somewhere to print, provided by the program that includes this. */
extern void put_text(const char *text, size_t len);

static int say(void *user, const char *text, size_t len) {
    (void)user;
    put_text(text, len);
    return 0;
}

int run_model(const char *prompt, size_t prompt_len, uint64_t most) {
    drupe_options options;
    drupe_bytes model;
    drupe *d = NULL;
    uint32_t tokens[256];
    size_t count;
    uint64_t said;
    int code;
    if ((code = drupe_options_init(&options, sizeof options)) != DRUPE_OK) return code;
    model.data = model_start;
    model.len = (size_t)(model_end - model_start);
    options.ctx = 256;
    options.batch = 8;
    options.max_text = 64;
    code = drupe_init(arena, sizeof arena, &model, 1, &options, NULL, &d);
    if (code != DRUPE_OK) return code;
    code = drupe_tokenize(d, prompt, prompt_len, DRUPE_ADD_BOS, tokens, 256, &count);
    if (code == DRUPE_OK) code = drupe_feed(d, tokens, count);
    if (code == DRUPE_OK) code = drupe_generate(d, most, say, NULL, &said);
    return code;
}
