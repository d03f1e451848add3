/*
 * Prints what is said in recordings, a line each, as soon as it is heard.
 *
 *     recognize FILE.wav ...
 *
 * 16-bit PCM, one channel, SPEECHKIT_SAMPLE_RATE_HZ. Exit status 0: all were read, 1: one was not, 2: no file was named.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "ctc.h"
#include "front_end.h"
#include "network.h"
#include "wav.h"

#define KEPT_SAMPLES (SPEECHKIT_FRAME_LENGTH - SPEECHKIT_HOP_LENGTH) /* that a frame shares with the next */

static int16_t frame[SPEECHKIT_FRAME_LENGTH];
static int8_t codes[SPEECHKIT_NUM_FEATURES];

/* Where a line stands: empty, behind a word, or behind a space that is written when a word follows. */
static enum { EMPTY, WORD, SPACE } line;

static void write_label(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text != ' ') {
            if (line == SPACE) {
                putchar(' ');
            }
            putchar(*text);
            line = WORD;
        } else if (line == WORD) {
            line = SPACE;
        }
    }
    fflush(stdout);
}

static void hear(const int8_t *logits)
{
    const int32_t label = speechkit_ctc_push(logits);

    if (label != 0) {
        write_label(speechkit_label_text(label));
    }
}

static void recognize(struct speechkit_wav *wav)
{
    const int8_t *logits;
    int32_t wanted = SPEECHKIT_FRAME_LENGTH; /* the first frame is filled whole, later ones move on by a hop */

    line = EMPTY;
    speechkit_network_start();
    speechkit_ctc_start();
    while (speechkit_wav_read(wav, frame + SPEECHKIT_FRAME_LENGTH - wanted, wanted) == wanted) {
        speechkit_front_end(frame, codes);
        logits = speechkit_network_push(codes);
        if (logits != NULL) {
            hear(logits);
        }
        memmove(frame, frame + SPEECHKIT_HOP_LENGTH, KEPT_SAMPLES * sizeof(frame[0]));
        wanted = SPEECHKIT_HOP_LENGTH;
    }
    while ((logits = speechkit_network_finish()) != NULL) {
        hear(logits);
    }
    putchar('\n');
}

int main(int argc, char **argv)
{
    int status = 0;
    int place;

    if (argc < 2) {
        fprintf(stderr, "usage: recognize FILE.wav ... (16-bit PCM, one channel, %d Hz)\n", SPEECHKIT_SAMPLE_RATE_HZ);
        return 2;
    }
    for (place = 1; place < argc; place++) {
        struct speechkit_wav wav;
        const char *error = speechkit_wav_open(&wav, argv[place], SPEECHKIT_SAMPLE_RATE_HZ);

        if (error == NULL) {
            recognize(&wav);
        } else {
            fprintf(stderr, "recognize: %s %s\n", argv[place], error);
            status = 1;
        }
        speechkit_wav_close(&wav);
    }
    return status;
}
