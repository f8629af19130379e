/* Random sequences of calls, right and wrong, with a seed: nothing may crash, leak or write outside. Then every arena size
 * short of enough. Usage: calls MODEL.gguf [CALLS [SEED]] */
#include <string.h>
#include "../examples/common.h"

static uint64_t state;
static uint32_t draw(uint32_t below) {
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 16) % below;
}

static int say(void *user, const char *text, size_t len) {
    size_t *left = (size_t *)user;
    (void)text;
    if (*left < len) return 1;
    *left -= len;
    return 0;
}

static int cancel(void *user, uint64_t done, uint64_t total) {
    (void)user;
    return done > total || draw(40) == 0;
}

static uint64_t tick(void *user) { (void)user; return draw(1000); }

static void one_after_another(void *user, void (*job)(void *, uint32_t), void *arg) {
    uint32_t w, n = *(uint32_t *)user;
    for (w = 0; w < n; w++) job(arg, w);
}

#define CANARY 64

static unsigned char small[1u << 20];

/* Every size from 0 to needed - 1 (sampled; all of the last 4 KiB) gives MEMORY and touches nothing outside. */
static void short_arenas(const void *model, size_t len) {
    drupe_options options;
    drupe_plan_info plan;
    drupe_bytes part;
    unsigned char *memory;
    size_t given, i, tried = 0;
    drupe_options_init(&options, sizeof options);
    options.ctx = 16;
    options.batch = 2;
    part.data = model;
    part.len = len;
    plan.struct_size = sizeof plan;
    if (drupe_plan(&part, 1, &options, &plan) != DRUPE_OK) exit(1);
    memory = (unsigned char *)malloc((size_t)plan.memory + 2 * CANARY + 64);
    for (given = 0; given < plan.memory; given += given + 4096 < plan.memory ? 1 + plan.memory / 300 : 1) {
        unsigned char *start = memory + CANARY + (64 - ((uintptr_t)memory + CANARY) % 64) % 64;
        drupe *d = NULL;
        memset(start - CANARY, 0x5A, CANARY);
        memset(start + given, 0x5A, CANARY);
        if (drupe_init(start, given, &part, 1, &options, &d) != DRUPE_E_MEMORY || d != NULL) {
            fprintf(stderr, "%lu of %lu bytes were not refused\n", (unsigned long)given, (unsigned long)plan.memory);
            exit(1);
        }
        for (i = 1; i <= CANARY; i++) {
            if (start[given + i - 1] != 0x5A || *(start - i) != 0x5A) {
                fprintf(stderr, "written outside %lu bytes\n", (unsigned long)given);
                exit(1);
            }
        }
        tried++;
    }
    free(memory);
    printf("ok: %lu short arenas refused\n", (unsigned long)tried);
}

/* A plan, or a handle in memory of some size, of a model that may be cut short, with options that may be wrong. */
static int plan_or_init(const unsigned char *model, size_t len) {
    drupe_options options;
    drupe_plan_info plan;
    drupe_bytes part[2];
    char message[40];
    uint32_t ctx;
    drupe *d = NULL;
    int code = drupe_options_init(&options, draw(9) ? sizeof options : draw(100));
    if (code != DRUPE_OK) return code;
    options.ctx = draw(4) ? 1 + draw(64) : draw(0xffffffffu);
    options.batch = draw(4) ? 1 + draw(8) : draw(0xffffffffu);
    options.kv = draw(4);
    options.sinks = draw(5);
    options.workers = draw(3);
    options.flags = draw(3);
    options.max_text = draw(4) ? draw(100) : draw(0xffffffffu);
    options.message = draw(2) ? message : NULL;
    options.message_size = draw(sizeof message);
    part[0].data = part[1].data = draw(9) ? model : NULL;
    part[0].len = part[1].len = draw(4) ? len : draw((uint32_t)len);
    plan.struct_size = draw(9) ? sizeof plan : draw(100);
    switch (draw(3)) {
    case 0: return drupe_plan(part, draw(9) ? 1 : draw(3), draw(9) ? &options : NULL, &plan);
    case 1: return drupe_largest_ctx(part, 1, &options, draw(1u << 24), draw(9) ? &ctx : NULL);
    default:
        code = drupe_init(small, draw(sizeof small), part, 1, &options, &d);
        if (code == DRUPE_OK) {
            ctx = draw(500);
            code = drupe_feed(d, &ctx, 1);
            drupe_close(d);
        }
        return code;
    }
}

int main(int argc, char **argv) {
    unsigned long calls = argc > 2 ? strtoul(argv[2], NULL, 10) : 20000, i;
    unsigned long counts[17] = {0};
    size_t len, n, size = 0;
    void *memory[2] = {NULL, NULL};
    drupe *d[2];
    unsigned char *model, *saved = NULL;
    uint32_t workers = 3;
    drupe_team team;
    if (argc < 2) return 2;
    state = argc > 3 ? strtoul(argv[3], NULL, 10) : 1;
    printf("seed %lu\n", (unsigned long)state);
    model = read_file(argv[1], &len);
    short_arenas(model, len);
    team.user = &workers;
    team.workers = workers;
    team.run = one_after_another;
    d[0] = start(model, len, 24, 8, 4, &memory[0]);
    d[1] = start(model, len, 24, 8, 4, &memory[1]);
    for (i = 0; i < calls; i++) {
        drupe *h = draw(50) == 0 ? NULL : d[draw(2)];
        uint32_t ids[24], token = draw(600), k;
        uint64_t wide = draw(60);
        char text[64];
        size_t left = draw(30);
        float *logits;
        const float *hidden;
        int code = 0, end;
        drupe_sampling sampling;
        drupe_stats stats;
        drupe_message messages[2];
        for (k = 0; k < 24; k++) ids[k] = draw(40) == 0 ? draw(0xffffffffu) : draw(500);
        for (k = 0; k < sizeof text; k++) text[k] = (char)draw(256);
        switch (draw(20)) {
        case 0: code = drupe_feed(h, ids, draw(24)); break;
        case 1: code = drupe_feed_slice(h, ids, draw(24), draw(10), &n); break;
        case 2: code = drupe_feed(h, NULL, draw(2)); break;
        case 3: code = drupe_sample(h, &token); break;
        case 4: code = drupe_generate(h, draw(4), say, &left, &wide); break;
        case 5: code = drupe_tokenize(h, text, draw(64), draw(4), ids, draw(24), &n); break;
        case 6: code = drupe_token_text(h, token, draw(2), text, draw(64), &n); break;
        case 7: code = drupe_is_end(h, token, &end); break;
        case 8: code = drupe_rewind(h, wide); break;
        case 9: code = drupe_position(h, &wide); break;
        case 10:
            code = drupe_state_size(h, &wide);
            if (code == DRUPE_OK) {
                free(saved);
                size = (size_t)wide;
                saved = (unsigned char *)malloc(size);
                code = drupe_state_save(h, saved, size);
            }
            break;
        case 11:
            if (size > 0 && draw(2)) saved[draw((uint32_t)size)] ^= (unsigned char)(1u << draw(8));
            code = drupe_state_restore(h, saved, draw(4) ? size : draw((uint32_t)size + 1));
            break;
        case 12: code = drupe_logits(h, &logits, &n); if (code == DRUPE_OK) logits[draw((uint32_t)n)] = -1e30f; break;
        case 13: code = drupe_hidden(h, &hidden, &n); break;
        case 14:
            drupe_sampling_init(&sampling, sizeof sampling);
            sampling.temperature = (float)draw(30) / 10.0f - 0.2f;
            sampling.top_k = draw(50);
            sampling.penalty_last_n = draw(300);
            sampling.repeat_penalty = 1.0f + (float)draw(3);
            code = drupe_set_sampling(h, draw(10) ? &sampling : NULL);
            break;
        case 15: code = drupe_on_progress(h, draw(3) ? NULL : cancel, NULL); break;
        case 16:
            workers = team.workers = 1 + draw(6);
            code = drupe_use_team(h, draw(3) ? &team : NULL);
            if (workers > 4) workers = 4;
            break;
        case 17: code = drupe_use_clock(h, draw(2) ? NULL : tick, NULL); break;
        case 18: code = plan_or_init(model, len); break;
        default:
            stats.struct_size = draw(5) ? sizeof stats : draw(100);
            code = drupe_get_stats(h, &stats);
            messages[0].role = draw(4);
            messages[0].text = "hello";
            messages[0].len = 5;
            (void)drupe_chat_prompt(h, messages, 1, 1, text, draw(64), &n);
        }
        if (code > 0 || code < -15 || code == DRUPE_E_INTERNAL) {
            fprintf(stderr, "call %lu returned %d\n", i, code);
            return 1;
        }
        counts[-code]++;
    }
    printf("ok: %lu calls:", calls);
    for (i = 0; i < 17; i++) if (counts[i]) printf(" %ld:%lu", -(long)i, counts[i]);
    printf("\n");
    check(d[1], "cancel", drupe_on_progress(d[1], NULL, NULL));
    drupe_close(d[0]);
    if (drupe_feed(d[0], &workers, 1) != DRUPE_E_INVALID) return 1;
    free(saved);
    free(memory[0]);
    free(memory[1]);
    free(model);
    return 0;
}
