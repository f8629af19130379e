/* What the examples do not show, each thing checked against the plain way of doing it. Usage: features A.gguf B.gguf [PART],
 * PART being one of the files of A, split. Compiled with DRUPE_HOSTED, it tests the hosted functions too. */
#include <string.h>
#include "../examples/common.h"
#ifdef DRUPE_HOSTED
#include <pthread.h>
#endif

#define COUNT 24

#define EXPECT(what) \
    do { \
        if (!(what)) { \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what); \
            exit(1); \
        } \
    } while (0)

static const char prompt[] = "Once upon a time, there was a little dog";

static size_t tokenize(drupe *d, uint32_t *tokens) {
    size_t count = 0;
    check(d, "tokenize", drupe_tokenize(d, prompt, sizeof prompt - 1, DRUPE_ADD_BOS, tokens, 128, &count));
    return count;
}

/* Feeds the prompt, then chooses and feeds greedily. */
static void answer(drupe *d, uint32_t *out) {
    uint32_t tokens[128];
    int i;
    check(d, "rewind", drupe_rewind(d, 0));
    check(d, "feed", drupe_feed(d, tokens, tokenize(d, tokens)));
    for (i = 0; i < COUNT; i++) {
        check(d, "sample", drupe_sample(d, &out[i]));
        check(d, "feed", drupe_feed(d, &out[i], 1));
    }
}

struct seen { uint64_t calls, last, total, stop_at; };

static int progress(void *user, uint64_t done, uint64_t total) {
    struct seen *seen = (struct seen *)user;
    EXPECT(done <= total && (done == 0 || done >= seen->last));
    seen->calls++;
    seen->last = done;
    seen->total = total;
    return seen->stop_at != 0 && done >= seen->stop_at;
}

static uint64_t tick(void *user) { return ++*(uint64_t *)user; }

static void versions(void) {
    drupe_options options;
    EXPECT(drupe_version() == DRUPE_VERSION);
    EXPECT(drupe_options_init(&options, sizeof options) == DRUPE_OK && options.struct_size == sizeof options);
    EXPECT(drupe_options_init(&options, sizeof options - 4) == DRUPE_E_INVALID);
    /* The options of the first version, without their last field. */
    memset(&options, 0xff, sizeof options);
    EXPECT(drupe_options_init(&options, offsetof(drupe_options, memory)) == DRUPE_OK);
    EXPECT(options.struct_size == offsetof(drupe_options, memory) && options.memory == UINT64_MAX);
    EXPECT(drupe_options_init(&options, offsetof(drupe_options, memory) - 8) == DRUPE_E_INVALID);
    EXPECT(drupe_options_init(&options, sizeof options + 8) == DRUPE_E_INVALID);
    EXPECT(drupe_options_init(NULL, sizeof options) == DRUPE_E_INVALID);
    printf("ok: versions and sizes\n");
}

static void plans(const void *model, size_t len) {
    char message[200];
    drupe_options options;
    drupe_plan_info plan;
    drupe_bytes part;
    uint32_t ctx = 0;
    part.data = model;
    part.len = len;
    drupe_options_init(&options, sizeof options);
    options.message = message;
    options.message_size = sizeof message;
    options.ctx = 100;
    plan.struct_size = sizeof plan;
    EXPECT(drupe_plan(&part, 1, &options, &plan) == DRUPE_OK && plan.ctx == 100 && plan.memory > plan.kv);
    EXPECT(drupe_largest_ctx(&part, 1, &options, plan.memory, &ctx) == DRUPE_OK && ctx == 100);
    EXPECT(drupe_largest_ctx(&part, 1, &options, plan.memory - 1, &ctx) == DRUPE_OK && ctx == 99);
    EXPECT(drupe_largest_ctx(&part, 1, &options, 1000, &ctx) == DRUPE_E_MEMORY);
    EXPECT(drupe_plan(&part, 0, &options, &plan) == DRUPE_E_OPTION && strstr(message, "0 parts"));
    EXPECT(drupe_plan(&part, 65, &options, &plan) == DRUPE_E_OPTION);
    part.len = len / 2;
    EXPECT(drupe_plan(&part, 1, &options, &plan) == DRUPE_E_FILE && message[0] != 0);
    part.data = NULL;
    EXPECT(drupe_plan(&part, 1, &options, &plan) == DRUPE_E_INVALID);
    printf("ok: plans, the largest context, a cut file\n");
}

static void progress_and_figures(drupe *d, const uint32_t *expected) {
    uint32_t tokens[128], out[COUNT];
    size_t count = tokenize(d, tokens), taken = 0, done = 0;
    uint64_t clock = 0, position = 0;
    struct seen seen = {0, 0, 0, 0};
    drupe_stats stats, before;
    const float *hidden;
    float first[2];
    size_t width;
    EXPECT(drupe_on_progress(d, progress, &seen) == DRUPE_OK && drupe_use_clock(d, tick, &clock) == DRUPE_OK);
    before.struct_size = stats.struct_size = sizeof stats;
    EXPECT(drupe_get_stats(d, &before) == DRUPE_OK);
    answer(d, out);
    EXPECT(memcmp(out, expected, sizeof out) == 0);
    EXPECT(seen.calls > count && seen.total == 1 && seen.last == 0);
    EXPECT(drupe_get_stats(d, &stats) == DRUPE_OK);
    EXPECT(stats.position == count + COUNT && stats.high_water == stats.position);
    EXPECT(stats.fed == before.fed + count + COUNT && stats.sampled == before.sampled + COUNT);
    EXPECT(stats.feed_ticks > before.feed_ticks && stats.sample_ticks == before.sample_ticks + COUNT && stats.isa[0]);
    EXPECT(drupe_hidden(d, &hidden, &width) == DRUPE_OK && width > 1 && hidden[0] == hidden[0]);
    first[0] = hidden[0];
    first[1] = hidden[width - 1];

    /* A call that is stopped keeps the batches that were done. */
    EXPECT(drupe_rewind(d, 0) == DRUPE_OK);
    seen.calls = 0;
    seen.stop_at = 4;
    EXPECT(drupe_feed(d, tokens, count) == DRUPE_E_CANCELLED && seen.total == count);
    EXPECT(drupe_position(d, &position) == DRUPE_OK && position >= 4 && position < count);
    seen.stop_at = 0;

    /* In slices of one and two tokens: the same answer. */
    EXPECT(drupe_rewind(d, 0) == DRUPE_OK);
    while (done < count) {
        seen.calls = 0;
        EXPECT(drupe_feed_slice(d, tokens + done, count - done, 1 + done % 2, &taken) == DRUPE_OK);
        EXPECT(taken >= 1 && taken <= 1 + done % 2);
        done += taken;
    }
    for (done = 0; done < COUNT; done++) {
        EXPECT(drupe_sample(d, &out[done]) == DRUPE_OK && drupe_feed(d, &out[done], 1) == DRUPE_OK);
    }
    EXPECT(memcmp(out, expected, sizeof out) == 0);
    EXPECT(drupe_hidden(d, &hidden, &width) == DRUPE_OK && hidden[0] == first[0] && hidden[width - 1] == first[1]);
    EXPECT(drupe_on_progress(d, NULL, NULL) == DRUPE_OK && drupe_use_clock(d, NULL, NULL) == DRUPE_OK);
    printf("ok: progress, stopping, slices, figures, hidden state\n");
}

static void saved_and_restored(drupe *d) {
    uint32_t on[COUNT], again[COUNT];
    uint64_t size = 0, position = 0;
    unsigned char *state;
    size_t i;
    answer(d, on);
    EXPECT(drupe_state_size(d, &size) == DRUPE_OK);
    state = (unsigned char *)malloc((size_t)size);
    EXPECT(state && drupe_state_save(d, state, (size_t)size) == DRUPE_OK);
    for (i = 0; i < COUNT; i++) EXPECT(drupe_sample(d, &on[i]) == DRUPE_OK && drupe_feed(d, &on[i], 1) == DRUPE_OK);
    EXPECT(drupe_rewind(d, 0) == DRUPE_OK);
    /* Every byte of the head damaged, every length short of the whole. */
    for (i = 0; i < 128; i++) {
        state[i] ^= 0x55;
        EXPECT(drupe_state_restore(d, state, (size_t)size) == DRUPE_E_STATE);
        state[i] ^= 0x55;
    }
    for (i = 0; i < size; i += 1 + (size_t)size / 50) EXPECT(drupe_state_restore(d, state, i) == DRUPE_E_STATE);
    EXPECT(drupe_position(d, &position) == DRUPE_OK && position == 0);
    EXPECT(drupe_state_restore(d, state, (size_t)size) == DRUPE_OK);
    for (i = 0; i < COUNT; i++) {
        EXPECT(drupe_sample(d, &again[i]) == DRUPE_OK && drupe_feed(d, &again[i], 1) == DRUPE_OK);
    }
    EXPECT(memcmp(on, again, sizeof on) == 0);
    free(state);
    printf("ok: a state saved, damaged, restored\n");
}

/* Chat formats are recognised from the file, or not; returns whether this one's is. */
static int chats(drupe *d) {
    static const char question[] = "Is the light on?";
    drupe_message messages[65];
    char text[512], details[200];
    uint32_t tokens[128];
    size_t i, len = 0, again = 0, count = 0;
    int code;
    for (i = 0; i < 65; i++) {
        messages[i].role = i % 2 ? DRUPE_ROLE_ASSISTANT : DRUPE_ROLE_USER;
        messages[i].text = question;
        messages[i].len = sizeof question - 1;
    }
    code = drupe_chat_prompt(d, messages, 3, 1, NULL, 0, &len);
    if (code == DRUPE_E_CHAT) {
        EXPECT(drupe_last_error(d, details, sizeof details) > 0 && strstr(details, "chat template"));
        return 0;
    }
    EXPECT(code == DRUPE_E_BUFFER && len > 3 * (sizeof question - 1) && len < sizeof text);
    EXPECT(drupe_chat_prompt(d, messages, 3, 1, text, len - 1, &again) == DRUPE_E_BUFFER && again == len);
    EXPECT(drupe_chat_prompt(d, messages, 3, 1, text, len, &again) == DRUPE_OK && again == len);
    text[len] = 0;
    EXPECT(strstr(text, question));
    EXPECT(drupe_tokenize(d, text, len, DRUPE_PARSE_SPECIAL, tokens, 128, &count) == DRUPE_OK && count > 3);
    EXPECT(drupe_tokenize(d, text, len, DRUPE_PARSE_SPECIAL, tokens, count - 1, &again) == DRUPE_E_BUFFER && again == count);
    EXPECT(drupe_chat_prompt(d, messages, 65, 1, text, sizeof text, &len) == DRUPE_E_OPTION);
    messages[1].role = 3;
    EXPECT(drupe_chat_prompt(d, messages, 3, 1, text, sizeof text, &len) == DRUPE_E_OPTION);
    messages[1].role = DRUPE_ROLE_SYSTEM;
    messages[1].text = "\xff";
    messages[1].len = 1;
    EXPECT(drupe_chat_prompt(d, messages, 3, 1, text, sizeof text, &len) == DRUPE_E_TEXT);
    return 1;
}

/* Before anything was fed: zeros, not what the memory held. */
static void fresh(drupe *d) {
    float *logits;
    const float *hidden;
    size_t i, count = 0;
    EXPECT(drupe_logits(d, &logits, &count) == DRUPE_OK && count > 0);
    for (i = 0; i < count; i++) EXPECT(logits[i] == 0);
    EXPECT(drupe_hidden(d, &hidden, &count) == DRUPE_OK && count > 0);
    for (i = 0; i < count; i++) EXPECT(hidden[i] == 0);
}

/* Two models, a token of one after a token of the other. */
static void interleaved(drupe *const *d, uint32_t expected[2][COUNT]) {
    uint32_t tokens[128], out;
    int i, m;
    for (m = 0; m < 2; m++) {
        EXPECT(drupe_rewind(d[m], 0) == DRUPE_OK);
        check(d[m], "feed", drupe_feed(d[m], tokens, tokenize(d[m], tokens)));
    }
    for (i = 0; i < COUNT; i++) {
        for (m = 0; m < 2; m++) {
            EXPECT(drupe_sample(d[m], &out) == DRUPE_OK && out == expected[m][i]);
            EXPECT(drupe_feed(d[m], &out, 1) == DRUPE_OK);
        }
    }
    printf("ok: two models, interleaved\n");
}

#ifdef DRUPE_HOSTED
struct own { drupe *d; uint32_t out[COUNT]; };

static void *on_a_thread(void *arg) {
    struct own *own = (struct own *)arg;
    answer(own->d, own->out);
    return NULL;
}

static void two_threads(drupe *const *d, uint32_t expected[2][COUNT]) {
    struct own own[2];
    pthread_t threads[2];
    int m;
    for (m = 0; m < 2; m++) {
        own[m].d = d[m];
        EXPECT(pthread_create(&threads[m], NULL, on_a_thread, &own[m]) == 0);
    }
    for (m = 0; m < 2; m++) {
        EXPECT(pthread_join(threads[m], NULL) == 0);
        EXPECT(memcmp(own[m].out, expected[m], sizeof own[m].out) == 0);
    }
    printf("ok: two models on two threads\n");
}

/* The caller's workers: a thread for each, made anew for every step. Slow, and right. */
struct step { void (*job)(void *, uint32_t); void *arg; uint32_t worker; };

static void *one_worker(void *arg) {
    struct step *step = (struct step *)arg;
    step->job(step->arg, step->worker);
    return NULL;
}

static void with_pthreads(void *user, void (*job)(void *, uint32_t), void *arg) {
    struct step steps[3];
    pthread_t threads[3];
    uint32_t w;
    ++*(uint64_t *)user;
    for (w = 0; w < 3; w++) {
        steps[w].job = job;
        steps[w].arg = arg;
        steps[w].worker = w;
        if (w > 0) EXPECT(pthread_create(&threads[w], NULL, one_worker, &steps[w]) == 0);
    }
    job(arg, 0);
    for (w = 1; w < 3; w++) EXPECT(pthread_join(threads[w], NULL) == 0);
}

static void teams(drupe *d, const uint32_t *expected) {
    uint32_t out[COUNT];
    uint64_t steps = 0;
    drupe_threads *threads = NULL;
    drupe_team team;
    EXPECT(drupe_threads_start(0, &threads, &team) == DRUPE_E_OPTION);
    EXPECT(drupe_threads_start(1u << 30, &threads, &team) == DRUPE_E_OPTION);
    EXPECT(drupe_threads_start(2, &threads, &team) == DRUPE_OK && drupe_use_team(d, &team) == DRUPE_OK);
    answer(d, out);
    EXPECT(memcmp(out, expected, sizeof out) == 0);
    EXPECT(drupe_use_team(d, NULL) == DRUPE_OK);
    drupe_threads_stop(threads);
    team.user = &steps;
    team.workers = 4;
    team.run = with_pthreads;
    EXPECT(drupe_use_team(d, &team) == DRUPE_E_OPTION);
    team.workers = 3;
    EXPECT(drupe_use_team(d, &team) == DRUPE_OK);
    answer(d, out);
    EXPECT(steps > 0 && memcmp(out, expected, sizeof out) == 0);
    EXPECT(drupe_use_team(d, NULL) == DRUPE_OK);
    printf("ok: the library's threads and the caller's\n");
}

/* Within `limit` bytes for the whole process: 0 if that is refused, with the least that would do in the text. */
static int within(const drupe_file *file, const drupe_bytes *parts, size_t count, uint64_t limit, const uint32_t *expected,
                  drupe_budget_info *info, char *text, size_t size) {
    drupe_options options;
    drupe_plan_info plan;
    drupe_budget *budget = NULL;
    uint32_t out[COUNT];
    void *memory;
    drupe *d = NULL;
    int code;
    drupe_options_init(&options, sizeof options);
    options.ctx = 256;
    options.batch = 16;
    options.memory = limit;
    plan.struct_size = sizeof plan;
    EXPECT(drupe_plan(parts, count, &options, &plan) == DRUPE_OK);
    memory = malloc((size_t)plan.memory + plan.alignment);
    EXPECT(drupe_init(memory, (size_t)plan.memory + plan.alignment, parts, count, &options, &plan, &d) == DRUPE_OK);
    code = drupe_budget_open(d, file, 0, &budget);
    EXPECT(code == DRUPE_OK || (code == DRUPE_E_MEMORY && budget == NULL));
    if (code == DRUPE_OK) {
        info->struct_size = sizeof *info;
        EXPECT(drupe_budget_get_info(budget, info) == DRUPE_OK && info->struct_size == sizeof *info);
        EXPECT(info->beside > plan.memory && info->beside + info->resident <= info->limit && info->line[0]);
        EXPECT(limit ? info->asked == 1 && info->limit == limit : info->asked == 0);
        EXPECT(drupe_use_budget(d, budget) == DRUPE_OK);
        answer(d, out);
        EXPECT(memcmp(out, expected, sizeof out) == 0);
        EXPECT(drupe_use_budget(d, NULL) == DRUPE_OK);
    } else {
        drupe_last_error(d, text, size);
    }
    drupe_budget_close(budget);
    drupe_close(d);
    free(memory);
    return code == DRUPE_OK;
}

static void promises(const char *path, const uint32_t *expected) {
    char text[256] = "";
    const char *figure;
    drupe_file *file = NULL;
    drupe_budget_info info;
    const drupe_bytes *parts;
    uint64_t all = 0, limit, low = 0, high;
    size_t count, i;
    EXPECT(drupe_file_open(path, &file, &parts, &count, NULL, 0) == DRUPE_OK);
    for (i = 0; i < count; i++) all += parts[i].len;
    /* By the machine's limit all stays: these models are small. */
    EXPECT(within(file, parts, count, 0, expected, &info, text, sizeof text));
    EXPECT(info.streamed == 0 && info.resident == all && info.limit > all);
    /* Refused, and the least that is named does. */
    EXPECT(!within(file, parts, count, 1 << 20, expected, &info, text, sizeof text));
    figure = strstr(text, "at least ");
    EXPECT(figure && strstr(figure, " MiB are needed"));
    limit = (uint64_t)strtoul(figure + strlen("at least "), NULL, 10) << 20;
    EXPECT(within(file, parts, count, limit + (1 << 20), expected, &info, text, sizeof text));
    /* The largest limit that does not hold all weights: a part of them is read for each token. */
    for (high = info.beside + all + (16 << 20); high - low > 1 << 16;) {
        uint64_t middle = low + (high - low) / 2;
        if (within(file, parts, count, middle, expected, &info, text, sizeof text) && info.streamed == 0) {
            high = middle;
        } else {
            low = middle;
        }
    }
    if (within(file, parts, count, low, expected, &info, text, sizeof text)) {
        EXPECT(info.streamed > 0 && info.streamed < all);
    }
    EXPECT(drupe_budget_get_info(NULL, &info) == DRUPE_E_INVALID);
    printf("ok: promises over the whole process: refused below %lu MiB, all in %lu\n", (unsigned long)(limit >> 20),
           (unsigned long)(high >> 20));
    drupe_file_close(file);
}

static void files(const char *path, const uint32_t *expected, int split) {
    char message[200];
    drupe_file *file = NULL;
    drupe_budget *budget = NULL;
    drupe_budget_info info;
    const drupe_bytes *parts;
    size_t count, i;
    uint64_t all = 0, least = 0;
    void *memory;
    uint32_t out[COUNT];
    drupe *d;
    EXPECT(drupe_file_open("/nonexistent/model.gguf", &file, &parts, &count, message, sizeof message) == DRUPE_E_STORAGE);
    EXPECT(strstr(message, "no such file"));
    if (drupe_file_open(path, &file, &parts, &count, message, sizeof message) != DRUPE_OK) give_up(path, 0, message);
    EXPECT(split ? count > 1 : count == 1);
    d = start_parts(parts, count, 256, 16, 1, &memory);
    answer(d, out);
    EXPECT(memcmp(out, expected, sizeof out) == 0);

    for (i = 0; i < count; i++) all += parts[i].len;
    EXPECT(drupe_budget_open(d, file, 100, &budget) == DRUPE_E_MEMORY);
    for (least = 1 << 16; drupe_budget_open(d, file, least, &budget) == DRUPE_E_MEMORY; least += 1 << 16) {}
    info.struct_size = sizeof info;
    EXPECT(drupe_budget_get_info(budget, &info) == DRUPE_OK && info.asked == 1 && info.limit == least);
    EXPECT(info.beside == 0 && info.resident <= least && strstr(info.line, "for weights"));
    info.struct_size = 4;
    EXPECT(drupe_budget_get_info(budget, &info) == DRUPE_E_INVALID);
    EXPECT(budget && drupe_use_budget(d, budget) == DRUPE_OK);
    answer(d, out);
    EXPECT(memcmp(out, expected, sizeof out) == 0);
    EXPECT(drupe_use_budget(d, NULL) == DRUPE_OK);
    drupe_budget_close(budget);
    answer(d, out);
    EXPECT(memcmp(out, expected, sizeof out) == 0);
    drupe_close(d);
    free(memory);
    drupe_file_close(file);
    printf("ok: %lu file%s, mapped, and in %lu of %lu bytes\n", (unsigned long)count, count > 1 ? "s" : "",
           (unsigned long)least, (unsigned long)all);
}
#endif

int main(int argc, char **argv) {
    void *memory[2];
    unsigned char *model[2];
    uint32_t expected[2][COUNT];
    drupe *d[2];
    size_t len[2];
    int m;
    if (argc < 3) return 2;
    versions();
    for (m = 0; m < 2; m++) {
        model[m] = read_file(argv[1 + m], &len[m]);
        d[m] = start(model[m], len[m], 256, 4, 3, &memory[m]);
        fresh(d[m]);
        answer(d[m], expected[m]);
    }
    plans(model[0], len[0]);
    progress_and_figures(d[0], expected[0]);
    saved_and_restored(d[0]);
    EXPECT(chats(d[0]) + chats(d[1]) > 0);
    printf("ok: chat formats\n");
    interleaved(d, expected);
#ifdef DRUPE_HOSTED
    two_threads(d, expected);
    teams(d[0], expected[0]);
    files(argv[1], expected[0], 0);
    promises(argv[1], expected[0]);
    if (argc > 3) files(argv[3], expected[0], 1);
#endif
    for (m = 0; m < 2; m++) {
        drupe_close(d[m]);
        free(memory[m]);
        free(model[m]);
    }
    return 0;
}
