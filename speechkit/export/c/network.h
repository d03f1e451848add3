/*
 * An int8 network over time, frame by frame: codes of the front end in, codes of the logits out.
 *
 * The same codes, bit for bit, as speechkit.runtime.reference, at every layer. C99; no heap. Each tensor keeps only the
 * frames that a layer still has to read, in a ring, so memory does not grow with the utterance. A layer that looks
 * ahead gives its frames later by as much: SPEECHKIT_LOOKAHEAD_FRAMES frames of the front end in all.
 */
#ifndef SPEECHKIT_NETWORK_H
#define SPEECHKIT_NETWORK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SPEECHKIT_MOST_INPUTS 4

/* Tensor 0 is the codes of the front end, tensor i the output of layer i - 1. */
struct speechkit_tensor {
    int8_t *ring; /* [ring_frames][channels]; frame t stands at t % ring_frames */
    int16_t ring_frames;
    int16_t channels;
    int8_t zero_point;
};

/* A convolution over one tensor, or over several of equal length whose channels stand side by side. */
struct speechkit_layer {
    const void *weight;       /* a row of int8_t for each output channel, [tap] or, dense, [tap][input channel]; with
                                 SPEECHKIT_PACKED_WEIGHTS four bits each, a row in whole bytes, the lower half first */
    const int32_t *bias;      /* [output channel] */
    const float *multiplier;  /* [output channel], from sums to codes */
    int16_t inputs[SPEECHKIT_MOST_INPUTS]; /* the tensors */
    int16_t num_inputs;
    int16_t is_depthwise;     /* one input channel for each output channel */
    int16_t row_length;       /* weights of an output channel */
    int16_t taps;
    int16_t stride;
    int16_t left;             /* frames of nothing before the first, */
    int16_t right;            /* and after the last */
    int8_t lowest;            /* code: the zero point after a ReLU, else -128 */
};

#include "network_weights.h"

/* Begins an utterance. The memory is static: one utterance at a time, and less than 2^31 frames of it. */
void speechkit_network_start(void);

/* Takes the SPEECHKIT_NUM_FEATURES codes of a frame. Returns SPEECHKIT_NUM_LABELS codes of logits, or NULL: not yet. */
const int8_t *speechkit_network_push(const int8_t *codes);

/* After the last frame: the frames that are still to come, one a call; NULL: that was all. */
const int8_t *speechkit_network_finish(void);

#ifdef SPEECHKIT_CHECK
/* Called for every frame of every tensor; check_network.c has it. */
void speechkit_check_frame(int32_t tensor, int32_t frame, const int8_t *codes);
#endif

#ifdef __cplusplus
}
#endif

#endif
