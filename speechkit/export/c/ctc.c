#include "ctc.h"

#include "network.h"
#include "vocabulary.h"

static int32_t speechkit_label_before;

void speechkit_ctc_start(void)
{
    speechkit_label_before = 0;
}

int32_t speechkit_ctc_push(const int8_t *logits)
{
    int32_t best = 0; /* of equal ones the first */
    int32_t label;
    int32_t begins;

    for (label = 1; label < SPEECHKIT_NUM_LABELS; label++) {
        if (logits[label] > logits[best]) {
            best = label;
        }
    }
    begins = best == speechkit_label_before ? 0 : best;
    speechkit_label_before = best;
    return begins;
}

const char *speechkit_label_text(int32_t label)
{
    return speechkit_label_texts[label];
}
