/* The hosted library, in a limited amount of memory: continue a text, whatever the size of the model.
 *   cc -DDRUPE_HOSTED -Iinclude examples/limited.c libdrupe.a -lpthread -ldl -lm -o limited
 *   ./limited model.gguf                          within what this machine has
 *   ./limited model.gguf 400 "Once upon a time"   within 400 MiB */
#define DRUPE_HOSTED
#include "common.h"

static int say(void *user, const char *text, size_t len) {
    (void)user;
    fwrite(text, 1, len, stdout);
    return 0;
}

int main(int argc, char **argv) {
    char message[256] = "";
    size_t count, parts_count, prompt_len = 0;
    const char *prompt = argc > 3 ? argv[3] : "Once upon a time";
    const drupe_bytes *parts;
    drupe_options options;
    drupe_plan_info plan;
    drupe_budget_info info;
    drupe_budget *budget;
    drupe_file *file;
    uint32_t tokens[512];
    uint64_t said;
    void *memory;
    drupe *d = NULL;
    int code;
    if (argc < 2) {
        fprintf(stderr, "usage: limited MODEL.gguf [MIB [TEXT]]\n");
        return 2;
    }
    code = drupe_file_open(argv[1], &file, &parts, &parts_count, message, sizeof message);
    if (code != DRUPE_OK) give_up(argv[1], code, message);
    drupe_options_init(&options, sizeof options);
    options.ctx = 512;
    options.memory = (uint64_t)(argc > 2 ? strtoul(argv[2], NULL, 10) : 0) << 20; /* 0: what the machine allows */
    options.message = message;
    options.message_size = sizeof message;
    plan.struct_size = sizeof plan;
    code = drupe_plan(parts, parts_count, &options, &plan);
    if (code != DRUPE_OK) give_up("plan", code, message);
    memory = malloc((size_t)plan.memory + plan.alignment);
    if (!memory) give_up("memory", DRUPE_E_MEMORY, "");
    code = drupe_init(memory, (size_t)plan.memory + plan.alignment, parts, parts_count, &options, NULL, &d);
    if (code != DRUPE_OK) give_up("init", code, message);

    /* Refused here, with the least that would do, if the promise cannot be kept. */
    check(d, "budget", drupe_budget_open(d, file, 0, &budget));
    check(d, "budget", drupe_use_budget(d, budget));
    info.struct_size = sizeof info;
    check(d, "budget", drupe_budget_get_info(budget, &info));
    fprintf(stderr, "%s\n", info.line);

    while (prompt[prompt_len]) prompt_len++;
    check(d, "tokenize", drupe_tokenize(d, prompt, prompt_len, DRUPE_ADD_BOS, tokens, 512, &count));
    check(d, "feed", drupe_feed(d, tokens, count));
    check(d, "generate", drupe_generate(d, 60, say, NULL, &said));
    printf("\n");
    drupe_close(d);
    drupe_budget_close(budget);
    free(memory);
    drupe_file_close(file);
    return 0;
}
