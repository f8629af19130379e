/* A program with other things to do: an event loop that feeds the prompt in slices of 5 ms. It learns how long a token takes
 * and asks for as many as fit; the rest of the loop runs in between. */
#include <time.h>
#include "common.h"

#define SLICE_MS 5.0

static double now_ms(void) { return 1000.0 * (double)clock() / CLOCKS_PER_SEC; }

int main(int argc, char **argv) {
    drupe *d;
    void *memory;
    unsigned char *model;
    uint32_t tokens[512], token;
    size_t len, count, done = 0, taken, most = 1;
    double longest = 0, token_ms = 0;
    int slices = 0, over = 0, i, end = 0;
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time, there was a little dog who lived in a big house";
    if (argc < 2) {
        fprintf(stderr, "usage: slices MODEL.gguf [TEXT]\n");
        return 2;
    }
    model = read_file(argv[1], &len);
    d = start(model, len, 512, 64, 1, &memory);
    for (len = 0; prompt[len]; len++) {}
    check(d, "tokenize", drupe_tokenize(d, prompt, len, DRUPE_ADD_BOS, tokens, 512, &count));
    while (done < count) {
        double start_ms = now_ms(), took, each;
        check(d, "feed", drupe_feed_slice(d, tokens + done, count - done, most, &taken));
        done += taken;
        slices++;
        took = now_ms() - start_ms;
        if (took > longest) longest = took;
        over += took > SLICE_MS;
        /* What a token takes: a slower one counts at once, a faster one by half. A quarter of the time is kept to spare. */
        each = took / (double)taken;
        token_ms = each > token_ms ? each : (token_ms + each) / 2;
        most = token_ms * 1.25 < SLICE_MS ? (size_t)(SLICE_MS / (token_ms * 1.25)) : 1;
        /* ... the rest of the event loop ... */
    }
    for (i = 0; i < 20 && !end; i++) {
        check(d, "sample", drupe_sample(d, &token));
        check(d, "end", drupe_is_end(d, token, &end));
        printf("%u ", (unsigned)token);
        if (!end) check(d, "feed", drupe_feed(d, &token, 1));
    }
    printf("\n");
    fprintf(stderr, "%lu tokens in %d slices, the longest %.2f ms, %d over %.0f ms\n", (unsigned long)count, slices, longest,
            over, SLICE_MS);
    free(memory);
    free(model);
    return 0;
}
