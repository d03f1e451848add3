/* Greedy CTC: the likeliest label of each frame, repeats collapsed, blanks (label 0) dropped. */
#ifndef SPEECHKIT_CTC_H
#define SPEECHKIT_CTC_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Begins an utterance. */
void speechkit_ctc_start(void);

/* Takes the codes of a frame's logits, whose order is theirs. Returns the label that begins with it, or 0: none does. */
int32_t speechkit_ctc_push(const int8_t *logits);

/* What a label adds to the text, in UTF-8; a space at its beginning or end parts words. */
const char *speechkit_label_text(int32_t label);

#ifdef __cplusplus
}
#endif

#endif
