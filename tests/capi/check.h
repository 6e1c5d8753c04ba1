/* What the C tests share: checks that name their line. */
#ifndef CHECK_H
#define CHECK_H
#include "cusae.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** Ends the test where something does not hold. */
#define CHECK(holds)                                                                                            \
    do {                                                                                                        \
        if (!(holds)) {                                                                                         \
            fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #holds, cusae_error_text());   \
            exit(1);                                                                                            \
        }                                                                                                       \
    } while (0)

/** A call that must succeed. */
#define OK(call) CHECK((call) == CUSAE_OK)

/** A call that must fail with this status, and a text that has this in it. */
#define FAILS(status, text, call)                                                                               \
    do {                                                                                                        \
        CHECK((call) == (status));                                                                              \
        CHECK(strstr(cusae_error_text(), text) != NULL);                                                        \
    } while (0)

/** "folder/name", in one of a few buffers that are used in turn. */
static const char *path_of(const char *folder, const char *name) {
    static char buffers[4][4096];
    static unsigned turn;
    char *buffer = buffers[turn++ % 4];
    snprintf(buffer, sizeof buffers[0], "%s/%s", folder, name);
    return buffer;
}

#endif
