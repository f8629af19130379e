/* The shortest useful program: continue a text.
 *   cc -Iinclude examples/minimal.c libdrupe.a -lpthread -ldl -lm -o minimal && ./minimal model.gguf "Once upon a time" */
#include "common.h"

static int say(void *user, const char *text, size_t len) {
    (void)user;
    fwrite(text, 1, len, stdout);
    return 0;
}

int main(int argc, char **argv) {
    size_t len, count;
    void *memory;
    unsigned char *model;
    uint32_t tokens[512];
    uint64_t said;
    drupe *d;
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    size_t prompt_len = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: minimal MODEL.gguf [TEXT]\n");
        return 2;
    }
    model = read_file(argv[1], &len);
    d = start(model, len, 512, 32, 1, &memory);
    while (prompt[prompt_len]) prompt_len++;
    check(d, "tokenize", drupe_tokenize(d, prompt, prompt_len, DRUPE_ADD_BOS, tokens, 512, &count));
    check(d, "feed", drupe_feed(d, tokens, count));
    check(d, "generate", drupe_generate(d, 60, say, NULL, &said));
    printf("\n");
    drupe_close(d);
    free(memory);
    free(model);
    return 0;
}
