#include "wav.h"

#include <string.h>

/* A little-endian number, whatever the machine's own order. */
static uint32_t speechkit_number(const unsigned char *bytes, int32_t count)
{
    uint32_t value = 0;

    while (count > 0) {
        value = (value << 8) | bytes[--count];
    }
    return value;
}

static const char *speechkit_format_error(const unsigned char *format, uint32_t sample_rate_hz)
{
    if (speechkit_number(format, 2) != 1 || speechkit_number(format + 14, 2) != 16) {
        return "must be 16-bit PCM";
    }
    if (speechkit_number(format + 2, 2) != 1) {
        return "must have one channel";
    }
    return speechkit_number(format + 4, 4) == sample_rate_hz ? NULL : "has another sample rate than the front end";
}

static int speechkit_skip(FILE *file, uint32_t count)
{
    while (count > 0 && fgetc(file) != EOF) {
        count--;
    }
    return count == 0;
}

const char *speechkit_wav_open(struct speechkit_wav *wav, const char *path, uint32_t sample_rate_hz)
{
    unsigned char head[16];
    int has_format = 0;

    wav->file = fopen(path, "rb");
    if (wav->file == NULL) {
        return "cannot be opened";
    }
    if (fread(head, 1, 12, wav->file) != 12 || memcmp(head, "RIFF", 4) != 0 || memcmp(head + 8, "WAVE", 4) != 0) {
        return "is not a WAV file";
    }
    while (fread(head, 1, 8, wav->file) == 8) {
        uint32_t size = speechkit_number(head + 4, 4);
        const char *error;

        if (memcmp(head, "data", 4) == 0) {
            wav->bytes_left = size;
            return has_format ? NULL : "is damaged";
        }
        size += size & 1; /* chunks begin at even places */
        if (memcmp(head, "fmt ", 4) == 0) {
            if (size < sizeof(head) || fread(head, 1, sizeof(head), wav->file) != sizeof(head)) {
                return "is damaged";
            }
            error = speechkit_format_error(head, sample_rate_hz);
            if (error != NULL) {
                return error;
            }
            has_format = 1;
            size -= sizeof(head);
        }
        if (!speechkit_skip(wav->file, size)) {
            return "is damaged";
        }
    }
    return "is damaged";
}

int32_t speechkit_wav_read(struct speechkit_wav *wav, int16_t *samples, int32_t count)
{
    unsigned char raw[2];
    int32_t done = 0;

    while (done < count && wav->bytes_left >= 2 && fread(raw, 1, 2, wav->file) == 2) {
        const int32_t value = (int32_t)speechkit_number(raw, 2);

        samples[done++] = (int16_t)(value < 0x8000 ? value : value - 0x10000);
        wav->bytes_left -= 2;
    }
    return done;
}

void speechkit_wav_close(struct speechkit_wav *wav)
{
    if (wav->file != NULL) {
        fclose(wav->file);
    }
}
