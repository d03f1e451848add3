/*
 * Compares front end and network with the reference vectors: every code of every layer.
 *
 *     check_network [VECTORS ...]
 *
 * VECTORS are folders (vectors). Prints one line a folder; exit status 0: all equal, 1: something differs or is missing.
 */
#ifndef SPEECHKIT_CHECK
#error "compile all with -DSPEECHKIT_CHECK"
#endif

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "front_end.h"
#include "network.h"

#define LONGEST_PATH 4096

static const char *const names[] = SPEECHKIT_TENSOR_NAMES;
static const int32_t channels[] = SPEECHKIT_TENSOR_CHANNELS;
static FILE *references[SPEECHKIT_NUM_TENSORS];
static FILE *input;
static long num_codes;
static int differs;

static FILE *open_vectors(const char *folder, const char *name)
{
    char path[LONGEST_PATH];
    FILE *file = NULL;

    if (snprintf(path, sizeof(path), "%s/%s.bin", folder, name) < (int)sizeof(path)) {
        file = fopen(path, "rb");
    }
    if (file == NULL && !differs) {
        printf("differs: cannot read %s/%s.bin\n", folder, name);
        differs = 1;
    }
    return file;
}

static void open_all(const char *folder)
{
    char name[32];
    int32_t tensor;

    input = open_vectors(folder, "input_int16");
    references[0] = open_vectors(folder, "codes_int8");
    for (tensor = 1; tensor < SPEECHKIT_NUM_TENSORS; tensor++) {
        snprintf(name, sizeof(name), "layer_%02ld_int8", (long)(tensor - 1));
        references[tensor] = open_vectors(folder, name);
    }
}

static void close_all(void)
{
    int32_t tensor;

    if (input != NULL) {
        fclose(input);
    }
    for (tensor = 0; tensor < SPEECHKIT_NUM_TENSORS; tensor++) {
        if (references[tensor] != NULL) {
            fclose(references[tensor]);
        }
    }
}

void speechkit_check_frame(int32_t tensor, int32_t frame, const int8_t *codes)
{
    int32_t channel;

    for (channel = 0; channel < channels[tensor] && !differs; channel++) {
        const int raw = fgetc(references[tensor]);
        const int expected = raw < 128 ? raw : raw - 256;

        if (raw == EOF) {
            printf("differs: the reference of %s ends in frame %ld\n", names[tensor], (long)frame);
            differs = 1;
        } else if (codes[channel] != expected) {
            printf("differs: frame %ld, channel %ld of %s is %d, the reference says %d\n", (long)frame, (long)channel,
                   names[tensor], codes[channel], expected);
            differs = 1;
        }
        num_codes++;
    }
}

static int read_samples(int16_t *samples, int32_t count)
{
    unsigned char raw[2];
    int32_t n;

    for (n = 0; n < count; n++) {
        int32_t value;

        if (fread(raw, 1, 2, input) != 2) {
            return 0;
        }
        value = raw[0] | (int32_t)raw[1] << 8;
        samples[n] = (int16_t)(value < 0x8000 ? value : value - 0x10000);
    }
    return 1;
}

static void run(void)
{
    static int16_t frame[SPEECHKIT_FRAME_LENGTH];
    static int8_t codes[SPEECHKIT_NUM_FEATURES];
    int32_t wanted = SPEECHKIT_FRAME_LENGTH;
    int32_t tensor;

    speechkit_network_start();
    while (!differs && read_samples(frame + SPEECHKIT_FRAME_LENGTH - wanted, wanted)) {
        speechkit_front_end(frame, codes);
        speechkit_network_push(codes);
        memmove(frame, frame + SPEECHKIT_HOP_LENGTH, (SPEECHKIT_FRAME_LENGTH - SPEECHKIT_HOP_LENGTH) * sizeof(frame[0]));
        wanted = SPEECHKIT_HOP_LENGTH;
    }
    while (!differs && speechkit_network_finish() != NULL) {
    }
    for (tensor = 0; tensor < SPEECHKIT_NUM_TENSORS && !differs; tensor++) {
        if (fgetc(references[tensor]) != EOF) {
            printf("differs: the reference of %s goes on after the last frame\n", names[tensor]);
            differs = 1;
        }
    }
}

static int check(const char *folder)
{
    num_codes = 0;
    differs = 0;
    open_all(folder);
    if (!differs) {
        run();
    }
    close_all();
    if (!differs) {
        printf("equal: %ld codes of %d layers and the front end\n", num_codes, SPEECHKIT_NUM_TENSORS - 1);
    }
    return differs;
}

int main(int argc, char **argv)
{
    int status = argc > 1 ? 0 : check("vectors");
    int place;

    for (place = 1; place < argc; place++) {
        status |= check(argv[place]);
    }
    return status;
}
