/* A conversation: what was computed for earlier turns is never computed again. Reads lines from standard input. */
#include <string.h>
#include "common.h"

static int say(void *user, const char *text, size_t len) {
    char *answer = (char *)user;
    size_t have = strlen(answer);
    fwrite(text, 1, len, stdout);
    if (have + len < 4096) {
        memcpy(answer + have, text, len);
        answer[have + len] = 0;
    }
    return 0;
}

int main(int argc, char **argv) {
    static char lines[64][1024], answers[64][4096], prompt[65536];
    static uint32_t tokens[16384], before[16384];
    drupe_message messages[64];
    size_t len, count, old = 0, same, turn = 0;
    uint64_t said;
    void *memory;
    unsigned char *model;
    drupe *d;
    if (argc < 2) {
        fprintf(stderr, "usage: chat MODEL.gguf\n");
        return 2;
    }
    model = read_file(argv[1], &len);
    d = start(model, len, 1024, 32, 1, &memory);
    while (turn < 31 && fgets(lines[turn], sizeof lines[turn], stdin)) {
        size_t n = 0, i;
        lines[turn][strcspn(lines[turn], "\n")] = 0;
        for (i = 0; i <= turn; i++) {
            messages[n].role = DRUPE_ROLE_USER;
            messages[n].text = lines[i];
            messages[n++].len = strlen(lines[i]);
            if (i < turn) {
                messages[n].role = DRUPE_ROLE_ASSISTANT;
                messages[n].text = answers[i];
                messages[n++].len = strlen(answers[i]);
            }
        }
        check(d, "chat", drupe_chat_prompt(d, messages, n, 1, prompt, sizeof prompt, &len));
        check(d, "tokenize",
              drupe_tokenize(d, prompt, len, DRUPE_PARSE_SPECIAL | DRUPE_ADD_BOS, tokens, 16384, &count));
        /* Keep what the session already holds; at least one token must be fed to have logits. */
        for (same = 0; same < old && same + 1 < count && tokens[same] == before[same]; same++) {}
        if (drupe_rewind(d, same) != DRUPE_OK) {
            same = 0;
            check(d, "rewind", drupe_rewind(d, 0));
        }
        check(d, "feed", drupe_feed(d, tokens + same, count - same));
        memcpy(before, tokens, count * sizeof *tokens);
        old = count;
        check(d, "generate", drupe_generate(d, 80, say, answers[turn], &said));
        printf("\n");
        turn++;
    }
    free(memory);
    free(model);
    return 0;
}
