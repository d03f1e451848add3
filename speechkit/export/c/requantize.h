/*
 * From the 32-bit sum of a layer to its int8 code: clamp(rint((float)sum * multiplier) + zero_point, lowest, 127).
 *
 * The sum is rounded to float, the product once more, and both, as rint, to the nearest with ties to even. That is
 * IEEE 754 arithmetic and the same on every processor with floats of 32 bits that rounds each result to them. Where
 * there are none, or where intermediate results are wider, define SPEECHKIT_NO_FLOAT: the same bits from integers alone.
 */
#ifndef SPEECHKIT_REQUANTIZE_H
#define SPEECHKIT_REQUANTIZE_H

#include <stdint.h>

#ifdef __FAST_MATH__
#error "compile without -ffast-math (-Ofast): codes would differ from the reference"
#endif

#ifndef SPEECHKIT_NO_FLOAT

#include <float.h>
#include <math.h>

#if FLT_EVAL_METHOD != 0
#error "floats have excess precision here, codes would differ from the reference: define SPEECHKIT_NO_FLOAT"
#endif

static inline int8_t speechkit_requantize(int32_t sum, float multiplier, int32_t zero_point, int32_t lowest)
{
    const float steps = rintf((float)sum * multiplier);

    if (steps <= (float)(lowest - zero_point)) {
        return (int8_t)lowest;
    }
    if (steps >= (float)(127 - zero_point)) {
        return 127;
    }
    return (int8_t)((int32_t)steps + zero_point);
}

#else

#include <string.h>

/* value / 2^bits to the nearest, ties to even. */
static inline uint64_t speechkit_round_off(uint64_t value, int32_t bits)
{
    uint64_t rest;
    uint64_t half;

    if (bits <= 0) {
        return value;
    }
    if (bits >= 64) {
        return 0; /* value is below 2^49 */
    }
    half = (uint64_t)1 << (bits - 1);
    rest = value & ((half << 1) - 1);
    value >>= bits;
    return value + (rest > half || (rest == half && (value & 1) != 0));
}

/* Bits by which a value is longer than the 24 of a float. */
static inline int32_t speechkit_excess_bits(uint64_t value)
{
    int32_t bits = 0;

    while ((value >> bits) >= ((uint64_t)1 << 24)) {
        bits++;
    }
    return bits;
}

static inline int8_t speechkit_requantize(int32_t sum, float multiplier, int32_t zero_point, int32_t lowest)
{
    uint64_t value = sum < 0 ? (uint64_t)(-(int64_t)sum) : (uint64_t)sum;
    uint32_t raw; /* sign (0), 8 bits of exponent, 23 of mantissa */
    int32_t exponent;
    int32_t bits;
    int32_t steps;

    memcpy(&raw, &multiplier, sizeof(raw));
    exponent = (int32_t)(raw >> 23) - 150;
    bits = speechkit_excess_bits(value); /* the sum as a float */
    value = speechkit_round_off(value, bits);
    exponent += bits;
    value *= (raw & 0x7FFFFF) | 0x800000; /* the product, */
    bits = speechkit_excess_bits(value);  /* as a float */
    value = speechkit_round_off(value, bits);
    exponent += bits;
    if (exponent > 0) {
        value = value > 0 ? 256 : 0; /* at least 2^24, for a product of so many bits: beyond every code */
    } else {
        value = speechkit_round_off(value, -exponent);
    }
    steps = value > 255 ? 256 : (int32_t)value; /* what is beyond 255 is clamped all the same */
    steps = zero_point + (sum < 0 ? -steps : steps);
    if (steps < lowest) {
        return (int8_t)lowest;
    }
    return (int8_t)(steps > 127 ? 127 : steps);
}

#endif

#endif
