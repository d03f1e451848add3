/*
 * Compares front_end.c with the reference vectors: every intermediate result and every code of every frame.
 *
 *     check [VECTORS]
 *
 * VECTORS is the folder (vectors). Prints one line; exit status 0: all equal, 1: something differs or is missing.
 */
#ifndef SPEECHKIT_CHECK
#error "compile front_end.c and check.c with -DSPEECHKIT_CHECK"
#endif

#include <stdint.h>
#include <stdio.h>

#include "front_end.h"

#define LONGEST_PATH 4096

static int8_t codes[SPEECHKIT_NUM_FEATURES];

/* A step, its reference file, and how to read the value that front_end.c has computed. */
struct step {
    const char *name;
    const char *type;
    int bytes;
    const void *values;
    int32_t count;
    FILE *reference;
};

static struct step steps[] = {
    {"windowed", "int32", 4, speechkit_steps.windowed, SPEECHKIT_FRAME_LENGTH, NULL},
    {"real", "int32", 4, speechkit_steps.real, SPEECHKIT_NUM_BINS, NULL},
    {"imaginary", "int32", 4, speechkit_steps.imaginary, SPEECHKIT_NUM_BINS, NULL},
    {"power", "int64", 8, speechkit_steps.power, SPEECHKIT_NUM_BINS, NULL},
    {"energy", "int64", 8, speechkit_steps.energy, SPEECHKIT_NUM_MELS, NULL},
    {"log2", "int32", 4, speechkit_steps.log2, SPEECHKIT_NUM_MELS, NULL},
    {"codes", "int8", 1, codes, SPEECHKIT_NUM_FEATURES, NULL},
};
#define NUM_STEPS ((int)(sizeof(steps) / sizeof(steps[0])))

static FILE *open_vectors(const char *folder, const char *name, const char *type)
{
    char path[LONGEST_PATH];
    FILE *file = NULL;

    if (snprintf(path, sizeof(path), "%s/%s_%s.bin", folder, name, type) < (int)sizeof(path)) {
        file = fopen(path, "rb");
    }
    if (file == NULL) {
        printf("differs: cannot read %s/%s_%s.bin\n", folder, name, type);
    }
    return file;
}

/* A little-endian two's complement number of some bytes, whatever the machine's own order; 0 at the file's end. */
static int read_number(FILE *file, int bytes, int64_t *number)
{
    unsigned char raw[8];
    uint64_t value = 0;
    int place;

    if (fread(raw, 1, (size_t)bytes, file) != (size_t)bytes) {
        return 0;
    }
    for (place = bytes - 1; place >= 0; place--) {
        value = (value << 8) | raw[place];
    }
    if (bytes < 8 && (raw[bytes - 1] & 0x80) != 0) {
        value |= UINT64_MAX << (8 * bytes);
    }
    *number = value <= INT64_MAX ? (int64_t)value : -(int64_t)(UINT64_MAX - value) - 1;
    return 1;
}

static int64_t computed_value(const struct step *step, int32_t place)
{
    if (step->bytes == 1) {
        return ((const int8_t *)step->values)[place];
    }
    if (step->bytes == 4) {
        return ((const int32_t *)step->values)[place];
    }
    return ((const int64_t *)step->values)[place];
}

static int is_equal(const struct step *step, long frame)
{
    int32_t place;
    int64_t expected;

    for (place = 0; place < step->count; place++) {
        const int64_t computed = computed_value(step, place);

        if (!read_number(step->reference, step->bytes, &expected)) {
            printf("differs: the reference of %s ends in frame %ld\n", step->name, frame);
            return 0;
        }
        if (computed != expected) {
            printf("differs: frame %ld, %s[%ld] is %lld, the reference says %lld\n", frame, step->name, (long)place,
                   (long long)computed, (long long)expected);
            return 0;
        }
    }
    return 1;
}

/* Frame t: samples [t hop, t hop + length); 0 where the recording is over. */
static int read_frame(FILE *input, long frame, int16_t *samples)
{
    int32_t n;
    int64_t sample;

    if (fseek(input, 2 * frame * SPEECHKIT_HOP_LENGTH, SEEK_SET) != 0) {
        return 0;
    }
    for (n = 0; n < SPEECHKIT_FRAME_LENGTH; n++) {
        if (!read_number(input, 2, &sample)) {
            return 0;
        }
        samples[n] = (int16_t)sample;
    }
    return 1;
}

int main(int argc, char **argv)
{
    static int16_t samples[SPEECHKIT_FRAME_LENGTH];
    const char *folder = argc > 1 ? argv[1] : "vectors";
    FILE *input = open_vectors(folder, "input", "int16");
    long frame;
    int place;

    for (place = 0; input != NULL && place < NUM_STEPS; place++) {
        steps[place].reference = open_vectors(folder, steps[place].name, steps[place].type);
        if (steps[place].reference == NULL) {
            return 1;
        }
    }
    if (input == NULL) {
        return 1;
    }
    for (frame = 0; read_frame(input, frame, samples); frame++) {
        speechkit_front_end(samples, codes);
        for (place = 0; place < NUM_STEPS; place++) {
            if (!is_equal(&steps[place], frame)) {
                return 1;
            }
        }
    }
    for (place = 0; place < NUM_STEPS; place++) {
        if (fgetc(steps[place].reference) != EOF) {
            printf("differs: the reference of %s goes on after frame %ld, the last of the input\n", steps[place].name,
                   frame - 1);
            return 1;
        }
    }
    if (frame == 0) {
        printf("differs: the input holds no frame\n");
        return 1;
    }
    printf("equal: %ld frames, every step and every code\n", frame);
    return 0;
}
