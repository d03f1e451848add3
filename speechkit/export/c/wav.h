/* Reads a RIFF WAVE file of 16-bit PCM with one channel, as a stream. */
#ifndef SPEECHKIT_WAV_H
#define SPEECHKIT_WAV_H

#include <stdint.h>
#include <stdio.h>

struct speechkit_wav {
    FILE *file;
    uint32_t bytes_left; /* of the samples, as its header says */
};

/* Opens a file and stands before its first sample. Returns NULL, or what is wrong with it. */
const char *speechkit_wav_open(struct speechkit_wav *wav, const char *path, uint32_t sample_rate_hz);

/* Reads samples, and returns how many were left; fewer than asked for only at the end. */
int32_t speechkit_wav_read(struct speechkit_wav *wav, int16_t *samples, int32_t count);

void speechkit_wav_close(struct speechkit_wav *wav);

#endif
