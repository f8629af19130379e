/* A host for noheap.c: prints with write(2), and traps if anything allocates (a sanitizer does: -DNO_TRAP). */
#include <unistd.h>
#include <stddef.h>
#include <stdint.h>

int run_model(const char *prompt, size_t prompt_len, uint64_t most);

void put_text(const char *text, size_t len) {
    while (len > 0) {
        ssize_t n = write(1, text, len);
        if (n <= 0) return;
        text += n;
        len -= (size_t)n;
    }
}

#ifndef NO_TRAP
static void trap(void) { _exit(99); }

void *malloc(size_t n) { (void)n; trap(); return 0; }
void *calloc(size_t n, size_t m) { (void)n; (void)m; trap(); return 0; }
void *realloc(void *p, size_t n) { (void)p; (void)n; trap(); return 0; }
void free(void *p) { if (p) trap(); }
#endif

int main(void) {
    static const char prompt[] = "Once upon a time";
    int code = run_model(prompt, sizeof prompt - 1, 60);
    put_text("\n", 1);
    return code == 0 ? 0 : 1;
}
