/* drupe.h: small language models from GGUF files, in memory that you hand in.
 *
 *   1. drupe_options_init, then set what you want.
 *   2. drupe_plan says how many bytes a handle takes, to the byte.
 *   3. drupe_init builds the handle inside your memory. Nothing is allocated, then or later.
 *   4. drupe_tokenize or drupe_chat_prompt, drupe_feed, drupe_sample or drupe_generate.
 *
 * Ownership. The library owns nothing. The model's bytes and the memory must stay where they are, and the model's
 *   bytes unchanged, until the last call on the handle. There is nothing to free; drupe_close only makes later calls
 *   on the handle fail.
 * Threads. A handle may be used by one thread at a time. Different handles are independent: there is no global state.
 *   Work is done on the calling thread, unless drupe_use_team (or, hosted, drupe_use_threads) gives workers.
 * Errors. Functions return DRUPE_OK or a negative code and never abort. Outputs are written only on success, with two
 *   exceptions: with DRUPE_E_BUFFER the needed length is written (what the buffer holds then is undefined), with
 *   DRUPE_E_MEMORY of drupe_init the needed size. drupe_last_error tells the details of the last error of a handle; for
 *   functions without a handle they go to options.message.
 *   A defect of the library itself is DRUPE_E_INTERNAL in the hosted library; the freestanding one, which nothing can stop
 *   from outside, then waits in an endless loop, for a watchdog to see.
 * Callbacks run on the thread that called into the library, must return (no longjmp, no exception through the library), and
 *   must not use the handle.
 * Sizes. Structs that begin with struct_size may get more fields at their end in later versions. A program built against
 *   this header stays valid: the library reads and writes as much as struct_size says, and takes defaults for the rest.
 * Text is UTF-8 with a length; it need not end in NUL.
 */
#ifndef DRUPE_H
#define DRUPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this header. drupe_version() gives the library's; they must be of the same major and minor version. */
#define DRUPE_VERSION_MAJOR 0
#define DRUPE_VERSION_MINOR 1
#define DRUPE_VERSION_PATCH 0
#define DRUPE_VERSION (DRUPE_VERSION_MAJOR * 10000 + DRUPE_VERSION_MINOR * 100 + DRUPE_VERSION_PATCH)

/* Codes. Numbers are never reused. */
#define DRUPE_OK 0
#define DRUPE_E_INVALID (-1)      /* a null pointer, a wrong struct_size, or a handle that is none */
#define DRUPE_E_MEMORY (-2)       /* the memory given is smaller than needed */
#define DRUPE_E_FILE (-3)         /* the model is not a whole GGUF file */
#define DRUPE_E_UNSUPPORTED (-4)  /* the model needs something that this version does not have */
#define DRUPE_E_OPTION (-5)       /* an option is outside its range */
#define DRUPE_E_TOKEN (-6)        /* a token outside the vocabulary, or none at all */
#define DRUPE_E_CANCELLED (-7)    /* the caller's callback asked to stop */
#define DRUPE_E_STORAGE (-8)      /* reading the model failed */
#define DRUPE_E_BUFFER (-9)       /* the output buffer is too small; the needed length was written */
#define DRUPE_E_STATE (-10)       /* the saved state is damaged or of another model */
#define DRUPE_E_REWIND (-11)      /* that position is no longer in the ring */
#define DRUPE_E_TEXT (-12)        /* the text cannot be tokenized */
#define DRUPE_E_SAMPLE (-13)      /* no token can be chosen */
#define DRUPE_E_CHAT (-14)        /* the model's chat format is not known */
#define DRUPE_E_INTERNAL (-15)    /* a defect of this library */

/* A model's bytes in memory: the whole file, or one of the files of a split model (-00001-of-0000N.gguf), of which there
 * may be up to 64, given in order. */
typedef struct drupe_bytes {
    const void *data;
    size_t len;
} drupe_bytes;

/* A model with its session, tokenizer and sampler, inside your memory. */
typedef struct drupe drupe;

/* How keys and values are stored. */
#define DRUPE_KV_F16 0u
#define DRUPE_KV_Q8_0 1u
#define DRUPE_KV_F32 2u

/* drupe_options.flags: no tokenizer; saves its tables. Text functions then fail with DRUPE_E_TEXT. */
#define DRUPE_TOKENS_ONLY 1u

typedef struct drupe_options {
    uint32_t struct_size;   /* sizeof(drupe_options); set by drupe_options_init */
    uint32_t ctx;           /* tokens that a token can look back on, 1 to 2^24; default 2048. Memory grows with it */
    uint32_t batch;         /* most tokens of one forward pass, 1 to 4096; default 48. Buffers grow with it */
    uint32_t kv;            /* DRUPE_KV_*; default f16. q8_0 takes about half the memory */
    uint32_t sinks;         /* first tokens that stay when the context is full, 0 to ctx - 1; default 4 */
    uint32_t workers;       /* most workers of a team, 1 to 1024; default 1. Scratch grows with it */
    uint32_t flags;         /* DRUPE_TOKENS_ONLY or 0 */
    uint32_t max_text;      /* bytes of unbroken text that tokenizing has room for; default 4096 */
    char *message;          /* where drupe_plan, drupe_largest_ctx, drupe_init write an error's text, or NULL */
    size_t message_size;    /* its size in bytes */
    uint64_t memory;        /* hosted, see drupe_budget_open: bytes that the whole process may take at its peak; default 0:
                             * what the machine really allows. The freestanding library does not look at it */
} drupe_options;

typedef struct drupe_plan_info {
    uint32_t struct_size;   /* set it to sizeof(drupe_plan_info) before the call */
    uint32_t alignment;     /* of the memory: 64. Memory of lesser alignment loses up to 63 bytes */
    uint64_t memory;        /* bytes that drupe_init needs, all included */
    uint64_t kv;            /* of them: keys and values */
    uint64_t tables;        /* of them: the tokenizer's tables */
    uint32_t ctx;           /* as in the options */
    uint32_t vocab;         /* entries of the vocabulary: length of the logits */
    uint32_t width;         /* length of a hidden state */
    uint32_t layers;
    uint32_t train_ctx;     /* tokens of context that the model was trained on */
    uint32_t reserved;
} drupe_plan_info;

typedef struct drupe_sampling {
    uint32_t struct_size;    /* sizeof(drupe_sampling); set by drupe_sampling_init */
    uint32_t top_k;          /* keep so many of the best tokens; 0 for all */
    float temperature;       /* 0 (default): always the best token */
    float top_p;             /* keep the best tokens that together have this probability; 1 for all */
    float min_p;             /* keep tokens at least so probable in relation to the best; 0 for all */
    float typical_p;         /* locally typical sampling; 1 for none */
    float repeat_penalty;    /* 1 for none */
    float frequency_penalty; /* 0 for none */
    float presence_penalty;  /* 0 for none */
    uint32_t penalty_last_n; /* tokens that the penalties look back over, 0 to 256 */
    uint64_t seed;           /* same seed, same tokens, on every machine */
} drupe_sampling;

typedef struct drupe_stats {
    uint32_t struct_size;   /* set it to sizeof(drupe_stats) before the call */
    uint32_t workers;       /* as planned */
    uint64_t position;      /* tokens in the session */
    uint64_t high_water;    /* most tokens that the session has held since drupe_init */
    uint64_t fed;           /* tokens fed since drupe_init, those gone back over included */
    uint64_t sampled;       /* tokens sampled since drupe_init */
    uint64_t feed_ticks;    /* time spent feeding, by the clock of drupe_use_clock; 0 without one */
    uint64_t sample_ticks;  /* time spent sampling */
    uint64_t memory;        /* bytes of the session: fixed from start to end */
    const char *isa;        /* instruction set of the kernels, a static string */
} drupe_stats;

#define DRUPE_ROLE_SYSTEM 0u
#define DRUPE_ROLE_USER 1u
#define DRUPE_ROLE_ASSISTANT 2u

typedef struct drupe_message {
    uint32_t role;          /* DRUPE_ROLE_* */
    const char *text;       /* UTF-8 */
    size_t len;             /* bytes */
} drupe_message;

/* Your threads. run must call job(arg, w) once for each w from 0 to workers - 1, at the same time if it can, and return
 * when all those calls have returned. It is called from the thread that called into the library, many times per token.
 * The answers are the same bits for any number of workers. */
typedef struct drupe_team {
    void *user;             /* passed to run */
    uint32_t workers;       /* 1 to options.workers */
    void (*run)(void *user, void (*job)(void *arg, uint32_t worker), void *arg);
} drupe_team;

/* The library's version, as DRUPE_VERSION. Any thread. */
uint32_t drupe_version(void);

/* A static English text for a code. Any thread; never NULL. */
const char *drupe_error_text(int code);

/* Fills in the defaults. struct_size is sizeof(drupe_options). DRUPE_E_INVALID for NULL or another size. */
int drupe_options_init(drupe_options *options, size_t struct_size);

/* The same for sampling: greedy. */
int drupe_sampling_init(drupe_sampling *sampling, size_t struct_size);

/* How much memory a handle for this model (count is 1, if it is not split) takes with these options. Reads the headers of
 * the files, not their weights.
 * Errors: INVALID, FILE, UNSUPPORTED, OPTION. */
int drupe_plan(const drupe_bytes *parts, size_t count, const drupe_options *options, drupe_plan_info *info);

/* The largest options.ctx, up to the model's training context, whose plan fits in so many bytes. MEMORY if not even 1 does. */
int drupe_largest_ctx(const drupe_bytes *parts, size_t count, const drupe_options *options, uint64_t memory,
                      uint32_t *ctx);

/* Builds a handle in memory. The list of parts is copied, their bytes are not. Errors: those of drupe_plan, and MEMORY; info,
 * unless it is NULL, is written on success and with MEMORY: info->memory bytes, aligned to 64, are needed. */
int drupe_init(void *memory, size_t memory_len, const drupe_bytes *parts, size_t count, const drupe_options *options,
               drupe_plan_info *info, drupe **handle);

/* Makes later calls on the handle fail with INVALID, as long as its memory is left alone. NULL is allowed. */
void drupe_close(drupe *handle);

/* Copies the text of the handle's last error, cut off to size - 1 bytes and a NUL; returns its whole length. */
size_t drupe_last_error(const drupe *handle, char *text, size_t size);

/* call(user, done, total) is called before every matrix of every layer while tokens are fed: done of total tokens of the call
 * in progress have been fed (of drupe_generate: of `most`). When it returns non-zero, the call ends with DRUPE_E_CANCELLED
 * and the session holds the batches that were done. NULL for none. */
int drupe_on_progress(drupe *handle, int (*call)(void *user, uint64_t done, uint64_t total), void *user);

/* Gives the handle a clock for the times of drupe_get_stats: now(user) is a count of ticks that never goes back. NULL for
 * none. */
int drupe_use_clock(drupe *handle, uint64_t (*now)(void *user), void *user);

/* Gives the handle workers; NULL takes them away. OPTION if there are more than planned. The struct is copied. */
int drupe_use_team(drupe *handle, const drupe_team *team);

/* Feeds tokens after those fed before. Beyond ctx tokens the oldest are forgotten (the first `sinks` stay); memory stays
 * the same. Errors: TOKEN (nothing was fed), CANCELLED, STORAGE (drupe_position tells how many were fed). */
int drupe_feed(drupe *handle, const uint32_t *tokens, size_t count);

/* Feeds at most one batch, and at most `most` tokens (0: a batch), and says how many it took: for programs that must not
 * wait long. Call again with the rest. Logits are there once all have been taken. */
int drupe_feed_slice(drupe *handle, const uint32_t *tokens, size_t count, size_t most, size_t *taken);

/* The logits after the last token fed: plan_info.vocab floats inside the handle, valid until the next call. They may be
 * changed before drupe_sample. Zeros before anything was fed. */
int drupe_logits(drupe *handle, float **logits, size_t *count);

/* The final hidden state of the token fed last, normed: plan_info.width floats, valid until the next call. An embedding of
 * the text. It is not part of a saved state. */
int drupe_hidden(drupe *handle, const float **hidden, size_t *count);

/* How tokens are chosen from now on. Forgets the tokens that penalties looked back on. */
int drupe_set_sampling(drupe *handle, const drupe_sampling *sampling);

/* Chooses a token by the logits. It is remembered for the penalties, not fed. SAMPLE if every logit is forbidden. */
int drupe_sample(drupe *handle, uint32_t *token);

/* Samples and feeds up to `most` tokens. say(user, text, len) gets the text as it comes, in whole UTF-8 characters; when it
 * returns non-zero, or a token ends the answer, generating ends. *count gets the number of tokens fed. */
int drupe_generate(drupe *handle, uint64_t most, int (*say)(void *user, const char *text, size_t len), void *user,
                   uint64_t *count);

#define DRUPE_PARSE_SPECIAL 1u  /* control tokens written in the text are meant as such: for chat prompts, not for what people type */
#define DRUPE_ADD_BOS 2u        /* begin with the model's start token, if it wants one */

/* Turns text into tokens. BUFFER if there are more than capacity: *count gets the number. TEXT if options.max_text is too
 * small for an unbroken piece of the text. */
int drupe_tokenize(drupe *handle, const char *text, size_t len, uint32_t flags, uint32_t *tokens, size_t capacity,
                   size_t *count);

/* A token's bytes, which may be a part of a character. Control tokens have none, unless flags has DRUPE_PARSE_SPECIAL.
 * BUFFER as above. */
int drupe_token_text(drupe *handle, uint32_t token, uint32_t flags, char *text, size_t capacity, size_t *len);

/* Whether a token ends an answer. */
int drupe_is_end(drupe *handle, uint32_t token, int *is_end);

/* Writes a conversation (at most 64 messages) as the model was trained to read it, ready for drupe_tokenize with
 * DRUPE_PARSE_SPECIAL; with answer != 0 it ends where the assistant begins. The format is recognised from the file's
 * template, which is never executed. CHAT if it is not known; BUFFER as above. */
int drupe_chat_prompt(drupe *handle, const drupe_message *messages, size_t count, int answer, char *text,
                      size_t capacity, size_t *len);

/* Tokens in the session. */
int drupe_position(drupe *handle, uint64_t *position);

/* Goes back to an earlier position: what came after is forgotten, what came before is not computed again. Always possible
 * to 0, and to anywhere while the session has not outgrown ctx. REWIND if not. */
int drupe_rewind(drupe *handle, uint64_t position);

/* Bytes of the session's state now. */
int drupe_state_size(drupe *handle, uint64_t *size);

/* Writes the state: exactly drupe_state_size bytes. */
int drupe_state_save(drupe *handle, void *state, size_t size);

/* Takes a state back, of the same model and options. Every field is checked first; on an error nothing has changed. */
int drupe_state_restore(drupe *handle, const void *state, size_t size);

/* Figures. */
int drupe_get_stats(drupe *handle, drupe_stats *stats);

#ifdef DRUPE_HOSTED
/* Only in the hosted library (link with -lpthread -ldl -lm). */

/* A model's files mapped into memory, read-only. */
typedef struct drupe_file drupe_file;

/* Opens and maps a GGUF file, or all the files of a split model when path is one of them; *parts and *count are what
 * drupe_plan and drupe_init take, valid until drupe_file_close. STORAGE with the system's reason in message (size bytes, may
 * be NULL). The files must not be changed while they are open. This allocates. */
int drupe_file_open(const char *path, drupe_file **file, const drupe_bytes **parts, size_t *count, char *message,
                    size_t size);

/* Unmaps it. No handle on it may be used afterwards. NULL is allowed. */
void drupe_file_close(drupe_file *file);

/* Threads that wait between tokens. Give them to drupe_use_team. This allocates; OPTION for 0 workers or too many. */
typedef struct drupe_threads drupe_threads;
int drupe_threads_start(uint32_t workers, drupe_threads **threads, drupe_team *team);

/* Ends them. No handle may use them afterwards. NULL is allowed. */
void drupe_threads_stop(drupe_threads *threads);

/* A promise over memory: a model's weights stay in memory as far as the limit lets them, the rest is read from the file for
 * each token, ahead of the work. For models larger than the memory left for them. */
typedef struct drupe_budget drupe_budget;

typedef struct drupe_budget_info {
    uint32_t struct_size;   /* set it to sizeof(drupe_budget_info) before the call */
    uint32_t asked;         /* 1 if you set the limit, 0 if the machine does */
    uint64_t limit;         /* bytes that must not be exceeded; UINT64_MAX if nothing is known of the machine */
    uint64_t beside;        /* of them: what the process takes beside weights; 0 if the limit is of weights alone */
    uint64_t resident;      /* of them: weights, with the buffers that the rest is read through */
    uint64_t streamed;      /* bytes read from storage for each token; 0: all weights stay, in the mapped file */
    const char *line;       /* all this for people, with what sets the limit; valid until drupe_budget_close */
} drupe_budget_info;

/* Makes a budget for the handle's model, which came from this file. With memory 0 the process keeps to options.memory of
 * drupe_init, resident memory by the kernel's accounting, anonymous and of files: counted are the handle to its last byte,
 * the library, what else your program holds at this moment, and weights in what is left. What your program takes later you
 * must take off. With options.memory 0 too the limit is what the machine really allows: the least of the limits of the
 * process's control groups (v2, v1) and the system's available memory. With another memory the limit is of weights alone.
 * MEMORY if no way of streaming keeps to it; the text names the least limit that would do. STORAGE if the file cannot be
 * read. This allocates. The file must stay open. */
int drupe_budget_open(drupe *handle, const drupe_file *file, uint64_t memory, drupe_budget **budget);

/* Its figures. */
int drupe_budget_get_info(const drupe_budget *budget, drupe_budget_info *info);

/* From now on the handle's weights come from there; with NULL, from the mapped file again. One handle at a time. */
int drupe_use_budget(drupe *handle, drupe_budget *budget);

/* Gives its memory back. No handle may use it afterwards. NULL is allowed. */
void drupe_budget_close(drupe_budget *budget);
#endif

#ifdef __cplusplus
}
#endif

#endif /* DRUPE_H */
