/*
 * The network frame by frame. A frame of a layer is computed as soon as all that it reads is there; what lies before the
 * first or after the last frame counts as 0.
 *
 * speechkit_run_dense and speechkit_run_depthwise do all the work: a library of the processor's maker goes there.
 */
#define SPEECHKIT_NETWORK_TABLES
#include "network.h"

#include <stddef.h>
#include <string.h>

#include "requantize.h"

#define SPEECHKIT_LAST_TENSOR (SPEECHKIT_NUM_TENSORS - 1)

/* Frames of each tensor: made so far, and in all, which is known once the utterance has ended. */
static int32_t speechkit_made[SPEECHKIT_NUM_TENSORS];
static int32_t speechkit_total[SPEECHKIT_NUM_TENSORS];

/* The frames that a layer reads, those of its first input first, a frame a tap; NULL: outside of the utterance. */
static const int8_t *speechkit_window[SPEECHKIT_LARGEST_WINDOW];

static int8_t *speechkit_frame(int32_t tensor, int32_t frame)
{
    const struct speechkit_tensor *source = &speechkit_tensors[tensor];

    return source->ring + (frame % source->ring_frames) * source->channels;
}

static void speechkit_fill_window(const struct speechkit_layer *layer, int32_t first)
{
    const int8_t **place = speechkit_window;
    int32_t input;
    int32_t frame;

    for (input = 0; input < layer->num_inputs; input++) {
        const int32_t tensor = layer->inputs[input];

        for (frame = first; frame < first + layer->taps; frame++) {
            const int inside = frame >= 0 && frame < speechkit_total[tensor];

            *place++ = inside ? speechkit_frame(tensor, frame) : NULL;
        }
    }
}

#ifdef SPEECHKIT_PACKED_WEIGHTS
static int8_t speechkit_unpacked[SPEECHKIT_LONGEST_ROW];
#endif

/* The weights of an output channel. */
static const int8_t *speechkit_weights_of(const struct speechkit_layer *layer, int32_t channel, int32_t length)
{
#ifdef SPEECHKIT_PACKED_WEIGHTS
    const uint8_t *pair = (const uint8_t *)layer->weight + channel * ((length + 1) / 2);
    int32_t n;

    for (n = 0; n < length; n += 2, pair++) {
        speechkit_unpacked[n] = (int8_t)(((*pair & 15) ^ 8) - 8);
        speechkit_unpacked[n + 1] = (int8_t)(((*pair >> 4) ^ 8) - 8);
    }
    return speechkit_unpacked;
#else
    return (const int8_t *)layer->weight + channel * length;
#endif
}

static void speechkit_run_dense(const struct speechkit_layer *layer, const struct speechkit_tensor *output,
                                int8_t *codes)
{
    int32_t channel;
    int32_t tap;
    int32_t input;
    int32_t n;

    for (channel = 0; channel < output->channels; channel++) {
        const int8_t *weight = speechkit_weights_of(layer, channel, layer->row_length);
        int32_t sum = layer->bias[channel];

        for (tap = 0; tap < layer->taps; tap++) {
            for (input = 0; input < layer->num_inputs; input++) {
                const struct speechkit_tensor *source = &speechkit_tensors[layer->inputs[input]];
                const int8_t *frame = speechkit_window[input * layer->taps + tap];

                for (n = 0; frame != NULL && n < source->channels; n++) {
                    sum += weight[n] * (frame[n] - source->zero_point);
                }
                weight += source->channels;
            }
        }
        codes[channel] = speechkit_requantize(sum, layer->multiplier[channel], output->zero_point, layer->lowest);
    }
}

static void speechkit_run_depthwise(const struct speechkit_layer *layer, const struct speechkit_tensor *output,
                                    int8_t *codes)
{
    const int32_t zero_point = speechkit_tensors[layer->inputs[0]].zero_point;
    int32_t channel;
    int32_t tap;

    for (channel = 0; channel < output->channels; channel++) {
        const int8_t *weight = speechkit_weights_of(layer, channel, layer->row_length);
        int32_t sum = layer->bias[channel];

        for (tap = 0; tap < layer->taps; tap++) {
            if (speechkit_window[tap] != NULL) {
                sum += weight[tap] * (speechkit_window[tap][channel] - zero_point);
            }
        }
        codes[channel] = speechkit_requantize(sum, layer->multiplier[channel], output->zero_point, layer->lowest);
    }
}

/* Whether all that the next frame of a layer reads is there. */
static int speechkit_is_ready(const struct speechkit_layer *layer, int32_t output)
{
    const int32_t frame = speechkit_made[output];
    const int32_t end = frame * layer->stride - layer->left + layer->taps; /* reads the frames before this one */
    int32_t input;

    if (frame >= speechkit_total[output]) {
        return 0;
    }
    for (input = 0; input < layer->num_inputs; input++) {
        const int32_t tensor = layer->inputs[input];

        if (speechkit_made[tensor] < end && speechkit_made[tensor] < speechkit_total[tensor]) {
            return 0;
        }
    }
    return 1;
}

static void speechkit_count_frame(int32_t tensor)
{
#ifdef SPEECHKIT_CHECK
    speechkit_check_frame(tensor, speechkit_made[tensor], speechkit_frame(tensor, speechkit_made[tensor]));
#endif
    speechkit_made[tensor]++;
}

/* Every layer gives at most one frame: the rings are made for that. Returns how many layers gave one. */
static int32_t speechkit_advance(void)
{
    int32_t moved = 0;
    int32_t number;

    for (number = 0; number < SPEECHKIT_NUM_TENSORS - 1; number++) {
        const struct speechkit_layer *layer = &speechkit_layers[number];
        const int32_t output = number + 1;

        if (speechkit_is_ready(layer, output)) {
            int8_t *codes = speechkit_frame(output, speechkit_made[output]);

            speechkit_fill_window(layer, speechkit_made[output] * layer->stride - layer->left);
            if (layer->is_depthwise) {
                speechkit_run_depthwise(layer, &speechkit_tensors[output], codes);
            } else {
                speechkit_run_dense(layer, &speechkit_tensors[output], codes);
            }
            speechkit_count_frame(output);
            moved++;
        }
    }
    return moved;
}

void speechkit_network_start(void)
{
    int32_t tensor;

    for (tensor = 0; tensor < SPEECHKIT_NUM_TENSORS; tensor++) {
        speechkit_made[tensor] = 0;
        speechkit_total[tensor] = INT32_MAX;
    }
}

const int8_t *speechkit_network_push(const int8_t *codes)
{
    const int32_t before = speechkit_made[SPEECHKIT_LAST_TENSOR];

    memcpy(speechkit_frame(0, speechkit_made[0]), codes, (size_t)speechkit_tensors[0].channels);
    speechkit_count_frame(0);
    speechkit_advance();
    return speechkit_made[SPEECHKIT_LAST_TENSOR] > before ? speechkit_frame(SPEECHKIT_LAST_TENSOR, before) : NULL;
}

const int8_t *speechkit_network_finish(void)
{
    const int32_t before = speechkit_made[SPEECHKIT_LAST_TENSOR];
    int32_t number;

    speechkit_total[0] = speechkit_made[0];
    for (number = 0; number < SPEECHKIT_NUM_TENSORS - 1; number++) {
        const struct speechkit_layer *layer = &speechkit_layers[number];
        const int32_t room = speechkit_total[layer->inputs[0]] + layer->left + layer->right - layer->taps;

        speechkit_total[number + 1] = room < 0 ? 0 : room / layer->stride + 1;
    }
    while (speechkit_advance() > 0) {
        if (speechkit_made[SPEECHKIT_LAST_TENSOR] > before) {
            return speechkit_frame(SPEECHKIT_LAST_TENSOR, before);
        }
    }
    return NULL;
}
