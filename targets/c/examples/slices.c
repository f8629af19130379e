/* A program with other things to do: the prompt is fed in slices, one batch at a time, and its other work is done between
 * them. A smaller batch makes shorter slices. */
#include <time.h>
#include "common.h"

static double now_ms(void) { return 1000.0 * (double)clock() / CLOCKS_PER_SEC; }

int main(int argc, char **argv) {
    drupe *d;
    void *memory;
    unsigned char *model;
    uint32_t tokens[512], token;
    size_t len, count, done = 0, taken;
    double longest = 0;
    int slices = 0, i, end = 0;
    static const char prompt[] = "Once upon a time, there was a little dog who lived in a big house";
    if (argc < 2) {
        fprintf(stderr, "usage: slices MODEL.gguf\n");
        return 2;
    }
    model = read_file(argv[1], &len);
    d = start(model, len, 256, 4, 1, &memory);
    check(d, "tokenize", drupe_tokenize(d, prompt, sizeof prompt - 1, DRUPE_ADD_BOS, tokens, 512, &count));
    while (done < count) {
        double start_ms = now_ms(), took;
        check(d, "feed", drupe_feed_slice(d, tokens + done, count - done, &taken));
        done += taken;
        slices++;
        took = now_ms() - start_ms;
        if (took > longest) longest = took;
        /* ... the rest of the event loop ... */
    }
    for (i = 0; i < 20 && !end; i++) {
        check(d, "sample", drupe_sample(d, &token));
        check(d, "end", drupe_is_end(d, token, &end));
        printf("%u ", (unsigned)token);
        check(d, "feed", drupe_feed(d, &token, 1));
    }
    printf("\n");
    fprintf(stderr, "%d slices of the prompt, the longest %.2f ms\n", slices, longest);
    free(memory);
    free(model);
    return 0;
}
