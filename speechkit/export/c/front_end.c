/*
 * The front end in integers. Steps and their names are those of speechkit.features.integer; what each table holds is
 * said in front_end_tables.h. Divisions by powers of two round half up: (x + half) >> bits.
 */
#define SPEECHKIT_TABLES
#include "front_end.h"

#include <string.h>

/* A negative number shifted right must keep its sign. C99 leaves that to the compiler; one that differs stops here. */
typedef char speechkit_shift_keeps_the_sign[(((int32_t)-3 >> 1) == -2 && ((int64_t)-3 >> 1) == -2) ? 1 : -1];

/* All the memory that is written to. */
static int32_t speechkit_work[SPEECHKIT_FFT_LENGTH]; /* the windowed frame, folded by the Fourier transform */
static int64_t speechkit_power[SPEECHKIT_NUM_BINS];
static int32_t speechkit_log[SPEECHKIT_NUM_MELS];

#ifdef SPEECHKIT_CHECK
struct speechkit_steps speechkit_steps;
#define SPEECHKIT_KEEP(step, place, value) (speechkit_steps.step[place] = (value))
#else
#define SPEECHKIT_KEEP(step, place, value) ((void)0)
#endif

static int64_t speechkit_rounded_shift(int64_t value, int32_t bits)
{
    return (value + ((int64_t)1 << (bits - 1))) >> bits;
}

/* Mean of the frame with SPEECHKIT_SAMPLE_BITS fraction bits, to the nearest (division rounds down, not to zero). */
static int32_t speechkit_mean(const int16_t *samples)
{
    const int64_t divisor = 2 * (int64_t)SPEECHKIT_FRAME_LENGTH;
    int64_t total = 0;
    int64_t mean;
    int32_t n;

    for (n = 0; n < SPEECHKIT_FRAME_LENGTH; n++) {
        total += samples[n];
    }
    total = total * (2 << SPEECHKIT_SAMPLE_BITS) + SPEECHKIT_FRAME_LENGTH;
    mean = total / divisor;
    if (total % divisor < 0) {
        mean -= 1;
    }
    return (int32_t)mean;
}

/* windowed: minus the mean, pre-emphasis, window; then zeros up to the transform's length. */
static void speechkit_window_frame(const int16_t *samples)
{
    const int32_t mean = SPEECHKIT_REMOVE_DC ? speechkit_mean(samples) : 0;
    int32_t before = samples[0] * ((int32_t)1 << SPEECHKIT_SAMPLE_BITS) - mean; /* no sample stands before the first */
    int32_t n;

    for (n = 0; n < SPEECHKIT_FRAME_LENGTH; n++) {
        const int32_t x = samples[n] * ((int32_t)1 << SPEECHKIT_SAMPLE_BITS) - mean;
        const int64_t difference =
            x * ((int64_t)1 << SPEECHKIT_WINDOW_BITS) - (int64_t)SPEECHKIT_PREEMPHASIS * before;
        const int64_t emphasised = speechkit_rounded_shift(difference, SPEECHKIT_WINDOW_BITS);

        speechkit_work[n] =
            (int32_t)speechkit_rounded_shift(emphasised * speechkit_window[n], SPEECHKIT_WINDOW_BITS);
        before = x;
        SPEECHKIT_KEEP(windowed, n, speechkit_work[n]);
    }
    memset(speechkit_work + SPEECHKIT_FRAME_LENGTH, 0,
           (SPEECHKIT_FFT_LENGTH - SPEECHKIT_FRAME_LENGTH) * sizeof(speechkit_work[0]));
}

/* Sum of values[n] cos(2 pi (phase + n advance) / N); 0 <= phase, advance < N. */
static int64_t speechkit_cosine_sum(const int32_t *values, int32_t count, int32_t phase, int32_t advance)
{
    int64_t sum = 0;
    int32_t n;

    for (n = 0; n < count; n++) {
        sum += (int64_t)values[n] * speechkit_cosine[phase];
        phase += advance;
        if (phase >= SPEECHKIT_FFT_LENGTH) {
            phase -= SPEECHKIT_FFT_LENGTH;
        }
    }
    return sum;
}

/* real, imaginary, power of bin k from the sums with cosines and with sines. */
static void speechkit_set_bin(int32_t k, int64_t cosine_sum, int64_t sine_sum)
{
    const int64_t real = speechkit_rounded_shift(cosine_sum, SPEECHKIT_TWIDDLE_BITS);
    const int64_t imaginary = speechkit_rounded_shift(-sine_sum, SPEECHKIT_TWIDDLE_BITS);

    speechkit_power[k] = speechkit_rounded_shift(real * real + imaginary * imaginary, SPEECHKIT_POWER_SHIFT);
    SPEECHKIT_KEEP(real, k, (int32_t)real);
    SPEECHKIT_KEEP(imaginary, k, (int32_t)imaginary);
    SPEECHKIT_KEEP(power, k, speechkit_power[k]);
}

/*
 * Fourier transform: bin k is the sum of x[n] cos(2 pi k n / N) - i x[n] sin(2 pi k n / N), sines being cosines a
 * quarter of the table earlier. Terms whose cosines are equal but for the sign are added first. That is exact, so the
 * result is that of the plain sum at less than a quarter of its multiplications.
 *
 * With `length` values and the bins k = step, 2 step, ..., step being N / length:
 * - half the length on, cosine and sine change their sign at the odd multiples of step and are the same at the even
 *   ones: odd bins need only differences d[n] = x[n] - x[n + half], even ones only sums, which are the next round's x;
 * - at odd multiples, cos(half - n) = -cos(n) and sin(half - n) = sin(n) fold the differences once more.
 */
static void speechkit_transform(void)
{
    const int32_t quarter_turn = SPEECHKIT_FFT_LENGTH / 4;
    const int32_t sine_phase = SPEECHKIT_FFT_LENGTH - quarter_turn; /* cos(t - quarter turn) = sin(t) */
    int32_t length = SPEECHKIT_FFT_LENGTH;
    int32_t step = 1;
    int32_t k;
    int32_t n;

    while (length % 4 == 0) {
        const int32_t half = length / 2;
        const int32_t quarter = length / 4;
        int32_t *differences = speechkit_work + half;

        for (n = 0; n < half; n++) {
            const int32_t first = speechkit_work[n];
            const int32_t second = differences[n];

            speechkit_work[n] = first + second;
            differences[n] = first - second;
        }
        for (n = 1; n < quarter; n++) {
            const int32_t first = differences[n];
            const int32_t second = differences[half - n];

            differences[n] = first - second;        /* what the cosines of n are multiplied with */
            differences[half - n] = first + second; /* what the sines of n are multiplied with */
        }
        for (k = step; k < SPEECHKIT_NUM_BINS; k += 2 * step) {
            /* cosines: n = 0, 1, ..., quarter - 1; sines: n = quarter, quarter - 1, ..., 1 */
            const int32_t phase = (k * quarter + sine_phase) % SPEECHKIT_FFT_LENGTH;

            speechkit_set_bin(k, speechkit_cosine_sum(differences, quarter, 0, k),
                              speechkit_cosine_sum(differences + quarter, quarter, phase, SPEECHKIT_FFT_LENGTH - k));
        }
        length = half;
        step *= 2;
    }
    for (k = 0; k < SPEECHKIT_NUM_BINS; k += step) {
        speechkit_set_bin(k, speechkit_cosine_sum(speechkit_work, length, 0, k),
                          speechkit_cosine_sum(speechkit_work, length, sine_phase, k));
    }
}

/* log2 with SPEECHKIT_LOG_BITS fraction bits: the leading bit, then a table of 2^8 steps with straight lines between. */
static int32_t speechkit_log2(int64_t energy)
{
    int32_t top = 0; /* place of the leading bit */
    int32_t bits;
    int32_t mantissa; /* behind the leading bit, 23 bits: 8 for the table, 15 for the line */
    int32_t low;
    int32_t high;

    if (energy == 0) {
        return SPEECHKIT_ZERO_ENERGY_LOG;
    }
    for (bits = 32; bits > 0; bits /= 2) {
        if ((energy >> (top + bits)) > 0) {
            top += bits;
        }
    }
    mantissa = (int32_t)(top >= 23 ? energy >> (top - 23) : energy << (23 - top)) - ((int32_t)1 << 23);
    low = speechkit_log_table[mantissa >> 15];
    high = speechkit_log_table[(mantissa >> 15) + 1];
    return top * ((int32_t)1 << SPEECHKIT_LOG_BITS) + low + (((high - low) * (mantissa & 0x7FFF)) >> 15);
}

/* energy, log2: of each mel filter. */
static void speechkit_log_energies(void)
{
    const int32_t *weight = speechkit_filter_weight;
    int32_t m;
    int32_t n;

    for (m = 0; m < SPEECHKIT_NUM_MELS; m++) {
        const int64_t *power = speechkit_power + speechkit_filter_start[m];
        int64_t energy = 0;

        for (n = 0; n < speechkit_filter_length[m]; n++) {
            energy += power[n] * *weight++;
        }
        speechkit_log[m] = speechkit_log2(energy);
        SPEECHKIT_KEEP(energy, m, energy);
        SPEECHKIT_KEEP(log2, m, speechkit_log[m]);
    }
}

/* CMVN and quantization, one multiply-add a feature; for cepstra one matrix product. */
static int8_t speechkit_code(int32_t feature)
{
    int64_t sum = speechkit_offset[feature];
    int64_t code;

#if SPEECHKIT_MULTIPLIER_IS_MATRIX
    int32_t m;

    for (m = 0; m < SPEECHKIT_NUM_MELS; m++) {
        sum += (int64_t)speechkit_log[m] * speechkit_multiplier[m][feature];
    }
#else
    sum += (int64_t)speechkit_log[feature] * speechkit_multiplier[feature];
#endif
    code = speechkit_rounded_shift(sum, SPEECHKIT_SHIFT);
    if (code < SPEECHKIT_CODE_MIN) {
        code = SPEECHKIT_CODE_MIN;
    }
    if (code > SPEECHKIT_CODE_MAX) {
        code = SPEECHKIT_CODE_MAX;
    }
    return (int8_t)code;
}

void speechkit_front_end(const int16_t *samples, int8_t *codes)
{
    int32_t feature;

    speechkit_window_frame(samples);
    speechkit_transform();
    speechkit_log_energies();
    for (feature = 0; feature < SPEECHKIT_NUM_FEATURES; feature++) {
        codes[feature] = speechkit_code(feature);
    }
}
