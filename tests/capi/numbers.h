/* Numbers of the C tests: tensors of safetensors files, random ones, how far they are apart. */
#ifndef NUMBERS_H
#define NUMBERS_H
#include "check.h"
#include <math.h>

static float *floats(size_t len) {
    float *numbers = (float *)malloc((len + 1) * sizeof(float));
    CHECK(numbers != NULL);
    return numbers;
}

/** The float32 tensor `name` of a safetensors file; `len` numbers, which the caller frees. */
static float *read_tensor(const char *path, const char *name, size_t len) {
    unsigned char size[8];
    char key[64], *header, *entry;
    unsigned long header_bytes = 0, begin, end;
    float *numbers = floats(len);
    FILE *file = fopen(path, "rb");
    int i;
    CHECK(file != NULL && fread(size, 1, 8, file) == 8);
    for (i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | size[i];
    header = (char *)calloc(header_bytes + 1, 1);
    CHECK(header != NULL && fread(header, 1, header_bytes, file) == header_bytes);
    snprintf(key, sizeof key, "\"%s\":{", name);
    entry = strstr(header, key);
    CHECK(entry != NULL);
    entry = strstr(entry, "\"data_offsets\":[");
    CHECK(entry != NULL && sscanf(entry, "\"data_offsets\":[%lu,%lu]", &begin, &end) == 2);
    CHECK(end - begin == len * sizeof(float));
    CHECK(fseek(file, (long)(8 + header_bytes + begin), SEEK_SET) == 0);
    CHECK(fread(numbers, sizeof(float), len, file) == len);
    fclose(file);
    free(header);
    return numbers;
}

static double largest_difference(const float *a, const float *b, size_t len) {
    double largest = 0;
    size_t i;
    for (i = 0; i < len; i++) largest = fmax(largest, fabs((double)a[i] - (double)b[i]));
    return largest;
}

/** Numbers in -1..1 that come of a seed. */
static float uniform(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) / 8388608.0 - 1.0);
}

#endif
