// A counter as a WebAssembly process of the DVS, in C. It needs clang with lld, wasi-libc and compiler-rt for wasm32:
//
//   clang --target=wasm32-wasi -mexec-model=reactor -O2 -o counter.wasm counter.c
//
// Requests: a decimal number is added; "rand", "clock" and "fill N" (bytes of memory) show what a process has besides;
// "trap" and "spin" fail. Every answer is a decimal number.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define IMPORT(name) __attribute__((import_module("godwit"), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

IMPORT("reply") void godwit_reply(const void *at, uint32_t length);
IMPORT("notify") void godwit_notify(const void *name, uint32_t length);
IMPORT("kind") uint32_t godwit_kind(void);

static char *message;
static uint32_t room;
static int64_t total;
static uint8_t *filled;
static uint32_t filled_length;

EXPORT("godwit_alloc") void *godwit_alloc(uint32_t length) {
    if (length + 1 > room) {
        room = length + 1;
        message = realloc(message, room);
    }
    return message;
}

static void answer(int64_t n) {
    char text[32];
    int length = snprintf(text, sizeof text, "%lld", (long long)n);
    godwit_reply(text, (uint32_t)length);
}

// fill makes the state larger, with bytes that differ.
static int64_t fill(uint32_t length) {
    filled = realloc(filled, length);
    if (filled == NULL) {
        filled_length = 0;
        return -1;
    }
    for (uint32_t i = 0; i < length; i++) filled[i] = (uint8_t)(i * 2654435761u >> 24 | 1);
    filled_length = length;
    return length;
}

static int64_t checksum(void) {
    uint64_t sum = 14695981039346656037u;
    for (uint32_t i = 0; i < filled_length; i++) sum = (sum ^ filled[i]) * 1099511628211u;
    return (int64_t)(sum >> 1);
}

// touch writes to one byte of every page of a part of what was filled.
static int64_t touch(uint32_t length) {
    for (uint32_t i = 0; i < length && i < filled_length; i += 4096) filled[i]++;
    return length;
}

EXPORT("godwit_handle") void godwit_handle(char *at, uint32_t length) {
    at[length] = 0;
    if (godwit_kind() == 3) {
        total++;
    } else if (strcmp(at, "rand") == 0) {
        uint32_t n;
        __builtin_memset(&n, 0, sizeof n);
        extern int getentropy(void *, size_t);
        getentropy(&n, sizeof n);
        answer(n);
    } else if (strcmp(at, "clock") == 0) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        answer((int64_t)t.tv_sec * 1000000000 + t.tv_nsec);
    } else if (strcmp(at, "sleep") == 0) {
        struct timespec t = {3600, 0};
        nanosleep(&t, NULL);
        answer(0);
    } else if (strcmp(at, "checksum") == 0) {
        answer(checksum());
    } else if (strncmp(at, "fill ", 5) == 0) {
        answer(fill((uint32_t)strtoul(at + 5, NULL, 10)));
    } else if (strncmp(at, "touch ", 6) == 0) {
        answer(touch((uint32_t)strtoul(at + 6, NULL, 10)));
    } else if (strncmp(at, "notify ", 7) == 0) {
        godwit_notify(at + 7, length - 7);
        answer(total);
    } else if (strcmp(at, "trap") == 0) {
        total += 1000;
        fprintf(stderr, "about to fail\n");
        __builtin_trap();
    } else if (strcmp(at, "spin") == 0) {
        for (volatile int64_t *p = &total;;) (*p)++;
    } else {
        total += strtoll(at, NULL, 10);
        answer(total);
    }
}
