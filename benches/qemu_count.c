/* A plugin for QEMU's user emulation: counts the instructions that a program executes and prints the count on standard
 * error when the program ends, with `by=symbol` also the counts of its functions. Built and used by arm.sh.
 *
 * Debian ships QEMU without the plugin header, so what is used of version 1 of the interface is declared here. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;
struct machine;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int op, void *counter, uint64_t add);
size_t qemu_plugin_tb_n_insns(const struct block *);
struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
const char *qemu_plugin_insn_symbol(const struct instruction *);

int qemu_plugin_version = 1;

enum { ADD_U64 = 0, MOST_SYMBOLS = 1 << 14 };

/* The first entry is for all that has no name, and for everything where names are not asked for. */
static struct {
    char *name;
    uint64_t executed;
} symbols[MOST_SYMBOLS] = { { "?", 0 } };
static size_t known = 1;
static bool by_symbol;

static size_t find(const char *name)
{
    if (!by_symbol || !name)
        return 0;
    for (size_t i = 1; i < known; i++)
        if (!strcmp(symbols[i].name, name))
            return i;
    if (known == MOST_SYMBOLS || !(symbols[known].name = strdup(name)))
        return 0;
    return known++;
}

/* A block of instructions is translated once and then executed whole: one addition each time. */
static void translated(plugin_id id, struct block *block)
{
    (void)id;
    size_t at = find(qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0)));
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &symbols[at].executed, qemu_plugin_tb_n_insns(block));
}

static void ended(plugin_id id, void *nothing)
{
    (void)id, (void)nothing;
    uint64_t all = 0;
    for (size_t i = 0; i < known; i++) {
        all += symbols[i].executed;
        if (by_symbol)
            fprintf(stderr, "%" PRIu64 " %s\n", symbols[i].executed, symbols[i].name);
    }
    fprintf(stderr, "executed: %" PRIu64 "\n", all);
}

int qemu_plugin_install(plugin_id id, const struct machine *machine, int argc, char **argv)
{
    (void)machine;
    by_symbol = argc > 0 && !strcmp(argv[0], "by=symbol");
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
