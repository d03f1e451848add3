/*
 * One frame of 16-bit samples -> int8 codes q of its features, r = S (q - Z).
 *
 * The same codes, bit for bit, as speechkit.features.integer.integer_codes. C99; integers only; no heap, no
 * floating point, no library but <stdint.h> and <string.h>. What to compile and how to call it: README.md.
 */
#ifndef SPEECHKIT_FRONT_END_H
#define SPEECHKIT_FRONT_END_H

#include <stdint.h>

#include "front_end_tables.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * samples: SPEECHKIT_FRAME_LENGTH of them; frame t of a stream begins at sample t * SPEECHKIT_HOP_LENGTH.
 * codes:   SPEECHKIT_NUM_FEATURES of them are written.
 *
 * A frame needs nothing of the frames before it. The scratch memory is static: one call at a time.
 */
void speechkit_front_end(const int16_t *samples, int8_t *codes);

#ifdef SPEECHKIT_CHECK
/* Every intermediate result of the last frame, for check.c. Without SPEECHKIT_CHECK it does not exist. */
struct speechkit_steps {
    int32_t windowed[SPEECHKIT_FRAME_LENGTH];
    int32_t real[SPEECHKIT_NUM_BINS];
    int32_t imaginary[SPEECHKIT_NUM_BINS];
    int64_t power[SPEECHKIT_NUM_BINS];
    int64_t energy[SPEECHKIT_NUM_MELS];
    int32_t log2[SPEECHKIT_NUM_MELS];
};
extern struct speechkit_steps speechkit_steps;
#endif

#ifdef __cplusplus
}
#endif

#endif
