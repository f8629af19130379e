/* Sequences of random calls, right and wrong: nothing may crash, leak, read or write outside, or return what is no code.
 * Each sequence makes handles of its own, in memory of exactly the size that they need, and follows from its number alone.
 * Usage: sequences COUNT FIRST MODEL.gguf... */
#include <string.h>
#include "../examples/common.h"

#define MOST_MODELS 8

/* splitmix64 */
static uint64_t state;
static uint32_t draw(uint32_t below) {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % below;
}

static uint64_t sequence;

/* AddressSanitizer calls this before it ends the program. */
void __asan_on_error(void);
void __asan_on_error(void) { fprintf(stderr, "in sequence %lu\n", (unsigned long)sequence); }

static void wrong(const char *what, int code) {
    fprintf(stderr, "sequence %lu: %s: %d\n", (unsigned long)sequence, what, code);
    exit(1);
}

/* One model's bytes, and a handle with what it was made of. */
struct model { unsigned char *bytes; size_t len; };
struct made {
    drupe *d;
    void *memory;
    uint32_t vocab, team_workers;
    drupe_team team;
    unsigned char *saved;
    size_t saved_len;
};

static int say(void *user, const char *text, size_t len) {
    size_t *left = (size_t *)user;
    (void)text;
    if (*left < len) return 1;
    *left -= len;
    return 0;
}

static int cancel(void *user, uint64_t done, uint64_t total) {
    (void)user;
    if (done > total) wrong("progress beyond the total", 0);
    return draw(40) == 0;
}

static uint64_t tick(void *user) { (void)user; return draw(1000); }

/* Workers one after another, in any order; at times one that is none. */
static void in_turn(void *user, void (*job)(void *, uint32_t), void *arg) {
    uint32_t w, n = *(uint32_t *)user, first = draw(n);
    for (w = 0; w < n; w++) job(arg, (first + w) % n);
    if (draw(9) == 0) job(arg, n + draw(3));
}

/* Options that may be wrong. */
static int draw_options(drupe_options *options, int wild) {
    int code = drupe_options_init(options, wild && draw(9) == 0 ? draw(100) : sizeof *options);
    if (code != DRUPE_OK) return code;
    options->ctx = wild && draw(3) == 0 ? draw(0xffffffffu) : 1 + draw(24);
    options->batch = wild && draw(3) == 0 ? draw(0xffffffffu) : 1 + draw(8);
    options->kv = draw(wild ? 4 : 3);
    options->sinks = wild ? draw(5) : draw(options->ctx);
    options->workers = wild ? draw(3) : 1 + draw(4);
    options->flags = wild ? draw(4) : draw(20) == 0;
    options->max_text = wild && draw(3) == 0 ? draw(0xffffffffu) : draw(100);
    return DRUPE_OK;
}

/* A plan, the largest context, or a handle of some size; of a model that may be cut short or damaged. */
static int plan_or_init(const struct model *model) {
    static unsigned char small[1u << 19];
    drupe_options options;
    drupe_plan_info plan;
    drupe_bytes parts[2];
    char message[40];
    uint32_t out = 0;
    size_t at[3];
    unsigned char was[3];
    int i, code, damaged = draw(2) ? 3 : 0;
    drupe *d = NULL;
    if ((code = draw_options(&options, 1)) != DRUPE_OK) return code;
    options.message = draw(2) ? message : NULL;
    options.message_size = draw(sizeof message);
    for (i = 0; i < damaged; i++) {
        at[i] = draw(4) ? draw(4096) : draw((uint32_t)model->len);
        was[i] = model->bytes[at[i]];
        model->bytes[at[i]] = (unsigned char)(draw(2) ? was[i] ^ (1u << draw(8)) : draw(256));
    }
    parts[0].data = parts[1].data = draw(20) ? model->bytes : NULL;
    parts[0].len = parts[1].len = draw(4) ? model->len : draw((uint32_t)model->len);
    plan.struct_size = draw(20) ? sizeof plan : draw(100);
    switch (draw(4)) {
    case 0: code = drupe_plan(parts, draw(9) ? 1 : draw(3), draw(20) ? &options : NULL, &plan); break;
    case 1: code = drupe_largest_ctx(parts, 1, &options, draw(1u << 24), draw(20) ? &out : NULL); break;
    default:
        code = drupe_init(small, draw(2) ? sizeof small : draw(sizeof small), parts, 1, &options, draw(2) ? &plan : NULL,
                          draw(20) ? &d : NULL);
        if (code == DRUPE_OK) {
            out = draw(500);
            code = drupe_feed(d, &out, 1);
            if (code == DRUPE_OK) code = drupe_sample(d, &out);
            drupe_close(d);
        }
    }
    while (damaged-- > 0) model->bytes[at[damaged]] = was[damaged];
    return code;
}

/* The hash of saved states, so that hostile ones get past it. */
static uint64_t hashed(uint64_t hash, const unsigned char *bytes, size_t len) {
    size_t at, i;
    for (at = 0; at <= len; at += 8) {
        uint64_t word = 0;
        size_t n = len - at < 8 ? len - at : 8;
        for (i = 0; i < n; i++) word |= (uint64_t)bytes[at + i] << (8 * i);
        if (n < 8) word |= (uint64_t)(0x80 | n) << 56;
        hash = (hash ^ word) * 0x00000100000001b3u;
        hash = hash << 29 | hash >> 35;
    }
    return hash;
}

/* Damages a state; in every second case so that its checksum is right. */
static void damage(unsigned char *bytes, size_t len) {
    size_t i, n = 1 + draw(8);
    uint64_t sum;
    for (i = 0; i < n; i++) bytes[draw(3) ? 64 + draw((uint32_t)len - 64) : 16 + draw(24)] ^= (unsigned char)(1u << draw(8));
    for (i = draw(3) ? 0 : 64; i >= 64 && i < len; i++) bytes[i] = 0xff;
    if (draw(2)) return;
    sum = hashed(hashed(0xcbf29ce484222325u, bytes, 40), bytes + 64, len - 64);
    for (i = 0; i < 8; i++) bytes[40 + i] = (unsigned char)(sum >> (8 * i));
}

static int save(struct made *m) {
    uint64_t size = 0;
    int code = drupe_state_size(m->d, &size);
    if (code != DRUPE_OK) return code;
    free(m->saved);
    m->saved_len = (size_t)size;
    m->saved = (unsigned char *)malloc(m->saved_len);
    return m->saved ? drupe_state_save(m->d, m->saved, m->saved_len) : DRUPE_OK;
}

static int sampling(drupe *d) {
    drupe_sampling s;
    int code = drupe_sampling_init(&s, draw(20) ? sizeof s : draw(60));
    if (code != DRUPE_OK) return code;
    s.temperature = (float)draw(30) / 10.0f - 0.2f;
    s.top_k = draw(50);
    s.top_p = (float)draw(12) / 10.0f;
    s.min_p = (float)draw(12) / 10.0f;
    s.typical_p = (float)draw(12) / 10.0f;
    s.penalty_last_n = draw(300);
    s.repeat_penalty = (float)draw(4);
    s.frequency_penalty = (float)draw(3) - 1.0f;
    s.seed = draw(1000);
    return drupe_set_sampling(d, draw(20) ? &s : NULL);
}

static int chat(drupe *d, char *text, size_t size) {
    drupe_message messages[3];
    size_t i, n = draw(4), len;
    for (i = 0; i < 3; i++) {
        messages[i].role = draw(20) ? draw(3) : draw(1000);
        messages[i].text = draw(20) ? text : NULL;
        messages[i].len = draw(8);
    }
    return drupe_chat_prompt(d, draw(20) ? messages : NULL, draw(20) ? n : 65 + draw(200), (int)draw(2), text + 8,
                             draw((uint32_t)size - 8), &len);
}

/* One call on `m`, or on a handle that is none; `other` has states that are not this one's. */
static int call(struct made *m, struct made *other) {
    drupe *d = draw(60) ? m->d : NULL;
    uint32_t ids[16], token = draw(m->vocab + 20);
    uint64_t wide = draw(40);
    char text[64];
    size_t i, n, left = draw(30);
    float *logits;
    const float *hidden;
    drupe_stats stats;
    struct made *from = draw(4) ? m : other;
    int code, end;
    for (i = 0; i < 16; i++) ids[i] = draw(90) ? draw(m->vocab) : draw(0xffffffffu);
    for (i = 0; i < sizeof text; i++) text[i] = (char)(draw(3) ? 32 + draw(95) : draw(256));
    switch (draw(19)) {
    case 0: return drupe_feed(d, ids, draw(draw(4) ? 4 : 16));
    case 1: return drupe_feed_slice(d, ids, draw(16), draw(5), &n);
    case 2: return drupe_feed(d, NULL, draw(2));
    case 3: return drupe_sample(d, &token);
    case 4: return drupe_generate(d, draw(4), draw(4) ? say : NULL, &left, &wide);
    case 5: return drupe_tokenize(d, text, draw(64), draw(4), ids, draw(16), &n);
    case 6: return drupe_token_text(d, token, draw(2), text, draw(64), &n);
    case 7: return drupe_is_end(d, token, &end);
    case 8: return drupe_rewind(d, wide);
    case 9: return drupe_position(d, draw(20) ? &wide : NULL);
    case 10: m->team_workers = m->team.workers = 1 + draw(6); return drupe_use_team(d, draw(3) ? &m->team : NULL);
    case 11: return save(m);
    case 12:
        if (!from->saved) return DRUPE_OK;
        if (draw(2)) damage(from->saved, from->saved_len);
        return drupe_state_restore(d, from->saved, draw(4) ? from->saved_len : draw((uint32_t)from->saved_len + 1));
    case 13:
        code = drupe_logits(d, &logits, &n);
        if (code == DRUPE_OK) logits[draw((uint32_t)n)] = draw(2) ? -1e30f : (float)draw(9) / (float)draw(2);
        return code;
    case 14: return drupe_hidden(d, &hidden, draw(20) ? &n : NULL);
    case 15: return sampling(d);
    case 16: return draw(2) ? drupe_on_progress(d, draw(3) ? NULL : cancel, NULL) : drupe_use_clock(d, draw(2) ? NULL : tick, NULL);
    case 17: return chat(d, text, sizeof text);
    default:
        stats.struct_size = draw(5) ? sizeof stats : draw(100);
        (void)drupe_last_error(d, text, draw(64));
        return drupe_get_stats(d, &stats);
    }
}

static void make(struct made *m, const struct model *model) {
    drupe_options options;
    drupe_plan_info plan;
    drupe_bytes part;
    int code;
    part.data = model->bytes;
    part.len = model->len;
    plan.struct_size = sizeof plan;
    memset(m, 0, sizeof *m);
    draw_options(&options, 0);
    code = drupe_init(NULL, 0, &part, 1, &options, &plan, &m->d);
    if (code != DRUPE_E_MEMORY && options.kv == DRUPE_KV_Q8_0) {
        /* Heads too narrow for its blocks. */
        options.kv = DRUPE_KV_F16;
        code = drupe_init(NULL, 0, &part, 1, &options, &plan, &m->d);
    }
    if (code != DRUPE_E_MEMORY) wrong("no memory", code);
    if (posix_memalign(&m->memory, plan.alignment, (size_t)plan.memory) != 0) wrong("the test's own memory", 0);
    code = drupe_init(m->memory, (size_t)plan.memory, &part, 1, &options, NULL, &m->d);
    if (code != DRUPE_OK) wrong("init", code);
    m->vocab = plan.vocab;
    m->team.user = &m->team_workers;
    m->team.run = in_turn;
}

static void unmake(struct made *m) {
    uint64_t position;
    drupe_close(m->d);
    if (drupe_position(m->d, &position) != DRUPE_E_INVALID) wrong("a closed handle works", 0);
    free(m->saved);
    free(m->memory);
}

int main(int argc, char **argv) {
    unsigned long count, calls = 0, i, codes[16] = {0};
    struct model models[MOST_MODELS];
    uint64_t first;
    int m, models_count = argc - 3;
    if (argc < 4 || models_count > MOST_MODELS) return 2;
    count = strtoul(argv[1], NULL, 10);
    first = strtoul(argv[2], NULL, 10);
    for (m = 0; m < models_count; m++) models[m].bytes = read_file(argv[3 + m], &models[m].len);
    for (sequence = first; sequence < first + count; sequence++) {
        struct made made[2];
        unsigned long n;
        state = sequence << 20;
        for (m = 0; m < 2; m++) make(&made[m], &models[draw((uint32_t)models_count)]);
        for (n = 2 + draw(12); n > 0; n--, calls++) {
            uint32_t which = draw(16);
            int code = which == 0 ? plan_or_init(&models[draw((uint32_t)models_count)]) : call(&made[which % 2], &made[1 - which % 2]);
            if (code > 0 || code <= DRUPE_E_INTERNAL) wrong("not an error of the caller's", code);
            codes[-code]++;
        }
        for (m = 0; m < 2; m++) unmake(&made[m]);
        if (count >= 10 && (sequence - first + 1) % (count / 10) == 0) {
            fprintf(stderr, "%lu of %lu sequences\n", (unsigned long)(sequence - first + 1), count);
        }
    }
    for (m = 0; m < models_count; m++) free(models[m].bytes);
    printf("ok: %lu sequences from %lu on, %lu calls; by code:", count, (unsigned long)first, calls);
    for (i = 0; i < 16; i++) if (codes[i]) printf(" %s%lu %lu", i ? "-" : "", i, codes[i]);
    printf("\n");
    return 0;
}
