/*
 * A decoder for patches, written from docs/delta-format.md alone: C99, no heap, nothing but
 * <stdint.h> and <string.h>. It pulls the patch byte by byte and hands out the new image in chunks of
 * 4096 bytes; see check_delta.c for its use. `struct fota_delta` takes about 32 KB: make it static.
 * It proves nothing but the digest at the end: prove each chunk in `write_new` before you write it.
 */
#include <stdint.h>
#include <string.h>

#define FOTA_CHUNK 4096
#define FOTA_BLOCKS 512
#define FOTA_SEGMENTS 18

struct fota_delta_io {
    void *user;
    int (*patch)(void *user); /* the next byte of the patch, or -1 */
    int (*read_old)(void *user, uint32_t offset, uint8_t *to, uint32_t bytes); /* 0 if it can be read */
    int (*read_new)(void *user, uint32_t offset, uint8_t *to, uint32_t bytes); /* of what was written */
    int (*write_new)(void *user, uint32_t offset, const uint8_t *from, uint32_t bytes);
};

enum { FOTA_NONE, FOTA_POINTER, FOTA_CALL, FOTA_LOAD, FOTA_JUMP, FOTA_BRANCH, FOTA_PAIR, FOTA_LOW };
enum { SET_NONE, SET_XTENSA, SET_RISCV, SET_THUMB };
enum { HIT, SAME, BYTE, DIFFERENCE, LITERAL, TOKEN, DISTANCE, MIXERS };

struct fota_segment { uint32_t offset, bytes, address; };
struct fota_layout {
    struct fota_segment segment[FOTA_SEGMENTS];
    uint32_t count, gp;
};
struct fota_block { uint32_t at, from, bytes; };
struct fota_unit { uint32_t bytes, kind, target, extra; };
struct fota_mixer { uint8_t inputs, sets, bits[2][6]; uint16_t first_weight; };

struct fota_delta {
    const struct fota_delta_io *io;
    const char *error; /* what is wrong with the patch, if something is */
    uint32_t payload_left, range, code;
    uint16_t slot[8184];
    int32_t weight[244];
    uint32_t small, old_bytes, new_bytes, coded;
    uint32_t set, windowed, flat, ram[2], text[2]; /* the target */
    struct fota_layout old, new;
    struct fota_block block[FOTA_BLOCKS];
    uint16_t by_old[FOTA_BLOCKS];
    uint32_t blocks;
    uint32_t lt[64], ls[64], ps[256], gs[64];
    uint16_t pt[256], gt[64];
    uint32_t m, r, b, d, k, a, c1, c2, rep[4], cursor; /* as the page names them */
    uint8_t h[6], vc, vl;
    uint32_t high[32], known, data_may_come; /* the walk over the old image */
    uint32_t f, n, e, code_here, calls[32], load; /* instructions of the new image */
    uint8_t chunk[FOTA_CHUNK];
    uint32_t chunk_at, filled;
    uint32_t sha[8], sha_bytes;
    uint8_t sha_block[64];
};

static int fota_fail(struct fota_delta *d, const char *what) {
    if (!d->error) d->error = what;
    return -1;
}

/* SHA-256 (FIPS 180-4). */
static const uint32_t fota_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t fota_ror(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void fota_sha_block(uint32_t state[8], const uint8_t *from) {
    uint32_t w[64], v[8], i;
    for (i = 0; i < 16; i++)
        w[i] = (uint32_t)from[4 * i] << 24 | (uint32_t)from[4 * i + 1] << 16 | (uint32_t)from[4 * i + 2] << 8 | from[4 * i + 3];
    for (; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + (fota_ror(x, 7) ^ fota_ror(x, 18) ^ x >> 3) + w[i - 7] + (fota_ror(y, 17) ^ fota_ror(y, 19) ^ y >> 10);
    }
    memcpy(v, state, sizeof v);
    for (i = 0; i < 64; i++) {
        uint32_t x = v[7] + (fota_ror(v[4], 6) ^ fota_ror(v[4], 11) ^ fota_ror(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + fota_k[i] + w[i];
        uint32_t y = (fota_ror(v[0], 2) ^ fota_ror(v[0], 13) ^ fota_ror(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += x;
        v[0] = x + y;
    }
    for (i = 0; i < 8; i++) state[i] += v[i];
}

static void fota_sha_byte(struct fota_delta *d, uint8_t byte) {
    d->sha_block[d->sha_bytes++ & 63] = byte;
    if ((d->sha_bytes & 63) == 0) fota_sha_block(d->sha, d->sha_block);
}

static void fota_sha_now(const struct fota_delta *d, uint8_t digest[32]) {
    uint32_t state[8], i = d->sha_bytes & 63;
    uint64_t bits = (uint64_t)d->sha_bytes * 8;
    uint8_t last[64];
    memcpy(state, d->sha, sizeof state);
    memcpy(last, d->sha_block, sizeof last);
    last[i++] = 0x80;
    memset(last + i, 0, 64 - i);
    if (i > 56) {
        fota_sha_block(state, last);
        memset(last, 0, sizeof last);
    }
    for (i = 0; i < 8; i++) last[56 + i] = (uint8_t)(bits >> (56 - 8 * i));
    fota_sha_block(state, last);
    for (i = 0; i < 32; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i & 3)));
}

/* Numbers. */
static int32_t fota_asr(int32_t x, int by) { return x < 0 ? ~(~x >> by) : x >> by; }
static uint32_t fota_sext(uint32_t x, int bits) { return ((x & ((1u << (bits - 1)) * 2 - 1)) ^ 1u << (bits - 1)) - (1u << (bits - 1)); }
static int fota_fits(uint32_t x, int bits) { return fota_sext(x, bits) == x; }
static uint32_t fota_min(uint32_t x, uint32_t y) { return x < y ? x : y; }
static uint32_t fota_part(const uint8_t *at, uint32_t bytes) {
    uint32_t value = 0;
    while (bytes--) value = value << 8 | at[bytes];
    return value;
}
static void fota_put(uint8_t *at, uint32_t value, uint32_t bytes) {
    for (; bytes--; value >>= 8) *at++ = (uint8_t)value;
}

/* Range decoder, slots and mixers. */
static uint32_t fota_next(struct fota_delta *d) {
    int byte;
    if (d->payload_left == 0) return 0;
    d->payload_left--;
    byte = d->io->patch(d->io->user);
    if (byte < 0) fota_fail(d, "the patch ends too early");
    return byte < 0 ? 0 : (uint32_t)byte;
}

static uint32_t fota_bit(struct fota_delta *d, uint32_t p) {
    uint32_t bound = (uint32_t)((uint64_t)d->range * p >> 16), bit = d->code < bound;
    if (bit) {
        d->range = bound;
    } else {
        d->code -= bound;
        d->range -= bound;
    }
    while (d->range < 1u << 24) {
        d->code = d->code << 8 | fota_next(d);
        d->range <<= 8;
    }
    return bit;
}

static uint32_t fota_raw(struct fota_delta *d, uint32_t bits) {
    uint32_t value = 0;
    while (bits--) value = value << 1 | fota_bit(d, 32768);
    return value;
}

static void fota_learn(uint16_t *slot, uint32_t bit) {
    static const uint16_t rate[16] = {40960, 25206, 18204, 14246, 11702, 9929, 8623, 7620, 6826, 6182, 5649, 5201, 4818, 4488, 4201, 3947};
    int32_t q = *slot >> 4, c = *slot & 15, step = ((bit ? 4095 : 0) - q) * rate[c];
    q += step >= 0 ? (step + 32768) >> 16 : -((32768 - step) >> 16);
    q = q < 1 ? 1 : q > 4094 ? 4094 : q;
    *slot = (uint16_t)(q << 4 | (c < 15 ? c + 1 : 15));
}

static uint32_t fota_single(struct fota_delta *d, uint32_t at) {
    uint32_t bit = fota_bit(d, d->slot[at] | 15u);
    fota_learn(&d->slot[at], bit);
    return bit;
}

static uint32_t fota_squash(int32_t x) {
    static const uint16_t s[45 + 1] = {
        32768, 36843, 40793, 44511, 47911, 50941, 53581, 55834, 57724, 59287, 60565, 61598, 62428, 63090, 63615, 64030,
        64357, 64614, 64816, 64974, 65097, 65194, 65269, 65328, 65374, 65410, 65438, 65459, 65476, 65489, 65500, 65508, 65514,
        65519, 65523, 65526, 65528, 65530, 65531, 65532, 65533, 65534, 65534, 65535, 65535, 65535};
    uint32_t a = (uint32_t)(x < 0 ? -x : x), k = a >> 6;
    uint32_t p = k >= 44 ? 65535 : s[k] + ((uint32_t)(s[k + 1] - s[k]) * (a & 63) >> 6);
    return x < 0 ? 65536 - p : p;
}

static int32_t fota_stretch(uint32_t q) {
    int32_t low = -2047, high = 2047;
    while (low < high) { /* the smallest x that reaches it, or 2047 */
        int32_t middle = low + (high - low) / 2;
        if (fota_squash(middle) >= 16 * q + 8) high = middle;
        else low = middle + 1;
    }
    return low;
}

static const struct fota_mixer fota_mixers[MIXERS] = {
    {5, 16, {{10, 8, 8, 8, 9}, {8, 7, 6, 7, 6}}, 26214}, {2, 8, {{7, 8}, {6, 5}}, 32768},
    {3, 8, {{9, 8, 8}, {7, 6, 6}}, 26214}, {3, 8, {{8, 8, 8}, {8, 6, 6}}, 26214},
    {6, 16, {{10, 8, 8, 8, 8, 8}, {7, 6, 6, 6, 6, 6}}, 26214}, {2, 1, {{6, 8}, {5, 6}}, 32768}, {2, 1, {{8, 6}, {8, 6}}, 32768}};

/* Where the tables and weights of a mixer start; of MIXERS, where the numbers start. */
static void fota_place(const struct fota_delta *d, int which, uint32_t *slots, uint32_t *weights) {
    int i, j;
    for (*slots = *weights = 0, i = 0; i < which; i++) {
        for (j = 0; j < fota_mixers[i].inputs; j++) *slots += 1u << fota_mixers[i].bits[d->small][j];
        *weights += fota_mixers[i].inputs * (uint32_t)fota_mixers[i].sets;
    }
}

static uint32_t fota_mixed(struct fota_delta *d, int which, const uint32_t *context, uint32_t set) {
    const struct fota_mixer *mixer = &fota_mixers[which];
    uint32_t table, first, at[6], bit, p;
    int32_t s[6], *weight, sum = 0, e, i;
    fota_place(d, which, &table, &first);
    weight = d->weight + first + set % mixer->sets * mixer->inputs;
    for (i = 0; i < mixer->inputs; i++) {
        uint32_t size = 1u << mixer->bits[d->small][i];
        at[i] = table + context[i] % size;
        table += size;
        s[i] = fota_stretch(d->slot[at[i]] >> 4);
        sum += weight[i] * s[i];
    }
    p = fota_squash(fota_asr(sum, 16));
    bit = fota_bit(d, p);
    e = (bit ? 65535 : 0) - (int32_t)p;
    for (i = 0; i < mixer->inputs; i++) {
        if (e >= 32 || e <= -32) {
            int32_t w = weight[i] + fota_asr(e * s[i] * 12 + (1 << 17), 18);
            weight[i] = w > 174800 ? 174800 : w < -174800 ? -174800 : w;
        }
        fota_learn(&d->slot[at[i]], bit);
    }
    return bit;
}

static uint32_t fota_hash(uint32_t a, uint32_t b, uint32_t s) {
    uint32_t f = a * 0x9E3779B1u ^ b * 0x85EBCA6Bu ^ s * 0xC2B2AE35u, g = f ^ f >> 15, h = g * 0x2C1B3C6Du;
    return h ^ h >> 13;
}

static uint32_t fota_number(struct fota_delta *d, uint32_t which) {
    uint32_t first, none, b = 0, v = 1, i;
    fota_place(d, MIXERS, &first, &none);
    first += which * 48;
    while (b < 26 && fota_single(d, first + b)) b++;
    for (i = 0; i < b; i++)
        v = v * 2 + (i < 2 ? fota_single(d, first + 27 + 2 * fota_min(b, 10) - 2 + i) : fota_bit(d, 32768));
    return v - 1;
}

static uint32_t fota_signed(struct fota_delta *d, uint32_t which) {
    uint32_t u = fota_number(d, which);
    return u >> 1 ^ (u & 1 ? 0xFFFFFFFFu : 0);
}

static uint32_t fota_flag(struct fota_delta *d, uint32_t which) {
    uint32_t first, none;
    fota_place(d, MIXERS, &first, &none);
    return fota_single(d, first + 15 * 48 + which);
}

/* Layouts. */
static int fota_address(const struct fota_layout *l, uint32_t offset, uint32_t slack, uint32_t *address) {
    uint32_t i;
    for (i = 0; i < l->count; i++) {
        const struct fota_segment *s = &l->segment[i];
        if (offset >= s->offset && offset - s->offset < (uint64_t)s->bytes + slack) {
            *address = s->address + (offset - s->offset);
            return 1;
        }
    }
    return 0;
}

static int fota_address_near(const struct fota_layout *l, uint32_t offset, uint32_t *address) {
    return fota_address(l, offset, 0, address) || fota_address(l, offset, 17, address);
}

static int fota_offset(const struct fota_layout *l, uint32_t address, uint32_t *offset) {
    uint32_t i;
    for (i = 0; address >= 0x10000 && i < l->count; i++)
        if (address - l->segment[i].address < l->segment[i].bytes) {
            *offset = l->segment[i].offset + (address - l->segment[i].address);
            return 1;
        }
    return 0;
}

static int fota_is_at_offset(const struct fota_layout *l, uint32_t a) {
    uint32_t none;
    return fota_offset(l, a, &none);
}
static int fota_is_address(const struct fota_delta *d, const struct fota_layout *l, uint32_t a) {
    return (a >= d->ram[0] && a < d->ram[1]) || fota_is_at_offset(l, a);
}
static int fota_is_rom(uint32_t a) { return a >= 0x40000000u && a < 0x40070000u; }
static int fota_is_code(const struct fota_delta *d, uint32_t a) { return a >= d->text[0] && a < d->text[1]; }

static int fota_old_word(struct fota_delta *d, uint32_t offset, uint32_t *word) {
    uint8_t bytes[4];
    if (d->io->read_old(d->io->user, offset, bytes, 4)) return fota_fail(d, "the old image cannot be read");
    *word = fota_part(bytes, 4);
    return 0;
}

/* The segment whose header is at *at, which then is its end; 1 if there is none. */
static int fota_old_segment(struct fota_delta *d, uint32_t *at) {
    struct fota_segment s;
    if (d->old_bytes < 8 || *at > d->old_bytes - 8) return 1;
    if (fota_old_word(d, *at, &s.address) || fota_old_word(d, *at + 4, &s.bytes)) return -1;
    s.offset = *at + 8;
    s.bytes = fota_min(s.bytes, d->old_bytes - s.offset);
    if (d->old.count < FOTA_SEGMENTS) d->old.segment[d->old.count++] = s;
    *at = s.offset + s.bytes;
    return 0;
}

static int fota_old_image(struct fota_delta *d, uint32_t start, uint32_t header) {
    uint32_t word, i, at = start + header;
    if (d->old_bytes < start + header) return 0;
    if (fota_old_word(d, start, &word)) return -1;
    for (i = 0; i < fota_min(word >> 8 & 255, 16); i++) {
        int end = fota_old_segment(d, &at);
        if (end) return end < 0 ? -1 : 0;
    }
    return 0;
}

static int fota_target(struct fota_delta *d) {
    static const struct { uint32_t set, ram[2], text_end; } targets[9] = {
        {SET_NONE, {0, 0}, 0}, {SET_XTENSA, {0x3FFAE000, 0x40000000}, 0x50000000}, {SET_XTENSA, {0x3FFB0000, 0x40000000}, 0x50000000},
        {SET_XTENSA, {0x3FC88000, 0x3FD00000}, 0x50000000}, {SET_XTENSA, {0x3FFE8000, 0x40000000}, 0x50000000},
        {SET_RISCV, {0x3FC80000, 0x3FCE0000}, 0x43000000}, {SET_RISCV, {0x40800000, 0x40880000}, 0x43000000},
        {SET_RISCV, {0x4FF00000, 0x4FFC0000}, 0x50000000}, {SET_THUMB, {0x20000000, 0x20080000}, 0xFFFFFFFF}};
    uint32_t number = fota_raw(d, 8), base = 0, word, at = 8;
    int result = 0;
    if (number > 8) number = 0;
    d->set = targets[number].set;
    d->windowed = number >= 1 && number <= 3;
    memcpy(d->ram, targets[number].ram, sizeof d->ram);
    d->text[0] = number == 8 || number == 0 ? 0 : 0x40000000;
    d->text[1] = targets[number].text_end;
    if (number == 8) base = fota_raw(d, 32);
    if (number == 8) {
        d->old.count = 1;
        d->old.segment[0].offset = 0;
        d->old.segment[0].bytes = d->old_bytes;
        d->old.segment[0].address = base;
    } else if (number == 4) {
        word = 0;
        if (d->old_bytes > 0x1008 && fota_old_word(d, 0x1000, &word)) return -1;
        if ((word & 255) == 0xE9) result = fota_old_segment(d, &at) < 0 ? -1 : fota_old_image(d, 0x1000, 8);
        else result = fota_old_image(d, 0, 8);
    } else if (number) {
        result = fota_old_image(d, 0, 24);
    }
    if (d->set == SET_RISCV && fota_flag(d, 17)) {
        d->old.gp = d->ram[0] + fota_raw(d, 20);
        d->new.gp = d->old.gp + fota_signed(d, 0);
    }
    return result;
}

/* Units: what is at the start of a view of the old image, as an instruction of its set. */
static struct fota_unit fota_plain(uint32_t bytes) {
    struct fota_unit unit = {0, FOTA_NONE, 0, 0};
    unit.bytes = bytes;
    return unit;
}

static struct fota_unit fota_when(int holds, uint32_t bytes, uint32_t kind, uint32_t target, uint32_t extra) {
    struct fota_unit unit = fota_plain(bytes);
    if (holds) unit.kind = kind, unit.target = target, unit.extra = extra;
    return unit;
}

static int fota_is_entry(const uint8_t *v) { return v[0] == 0x36 && (v[1] & 15) == 1; }
static int fota_among_code(const struct fota_delta *d, const struct fota_layout *l, uint32_t word) {
    return fota_is_address(d, l, word) && (word % 4 == 0 || !fota_is_code(d, word));
}

static struct fota_unit fota_xtensa(const struct fota_delta *d, const struct fota_layout *l, const uint8_t *v, uint32_t n, uint32_t pc, int ahead) {
    uint32_t length, to_word = 4 - (pc & 3), w, target;
    if (n < 3) return fota_plain(n);
    if (pc % 4 == 0 && fota_is_entry(v)) return fota_plain(3);
    if (v[0] == 0) return fota_plain(1);
    length = (v[0] & 15) >= 8 && (v[0] & 15) <= 13 ? 2 : 3;
    if (to_word < length) {
        const uint8_t *at = v + to_word;
        if (ahead && n >= to_word + 4 &&
            (d->windowed && fota_is_code(d, pc) ? fota_among_code(d, l, fota_part(at, 4)) : fota_is_address(d, l, fota_part(at, 4))))
            return fota_plain(to_word);
        if (n >= to_word + 3 && fota_is_entry(at) && at[2] < 8) return fota_plain(to_word);
    }
    w = fota_part(v, 3);
    switch (v[0] & 15) {
    case 5:
        target = (pc & ~3u) + 4 + fota_sext(w >> 6, 18) * 4;
        return fota_when(fota_is_address(d, l, target) || fota_is_rom(target), 3, FOTA_CALL, target, 0);
    case 1:
        target = ((pc + 3) & ~3u) + (0xFFFF0000u | w >> 8) * 4;
        return fota_when(fota_is_address(d, l, target), 3, FOTA_LOAD, target, 0);
    case 6:
        if ((v[0] >> 4 & 3) == 0) {
            target = pc + 4 + fota_sext(w >> 6, 18);
            return fota_when(fota_is_address(d, l, target), 3, FOTA_JUMP, target, 0);
        }
        if ((v[0] >> 4 & 3) == 1) {
            target = pc + 4 + fota_sext(w >> 12, 12);
            return fota_when(fota_is_address(d, l, target), 3, FOTA_BRANCH, target, 12);
        }
        if ((v[0] >> 4 & 3) == 3 && v[0] >> 6 == 0) return fota_plain(3);
        return fota_when(1, 3, FOTA_BRANCH, pc + 4 + fota_sext(w >> 16, 8), 8);
    case 7:
        return fota_when(1, 3, FOTA_BRANCH, pc + 4 + fota_sext(w >> 16, 8), 8);
    default:
        return fota_plain(length);
    }
}

static struct fota_unit fota_windowed(struct fota_delta *d, const uint8_t *v, uint32_t n, uint32_t pc) {
    if (n < 3) return fota_plain(n);
    if (pc % 4 == 0) {
        if (fota_is_entry(v)) {
            d->data_may_come = 0;
            return fota_plain(3);
        }
        if (d->data_may_come && n >= 4 && fota_among_code(d, &d->old, fota_part(v, 4)))
            return fota_when(1, 4, FOTA_POINTER, fota_part(v, 4), 0);
    }
    if (v[0] == 0) {
        d->data_may_come = 1;
        return fota_plain(1);
    }
    if (((v[0] == 0x90 || v[0] == 0x80) && v[1] == 0 && v[2] == 0) || ((v[0] == 0x1D || v[0] == 0x0D) && v[1] == 0xF0) ||
        (v[0] & 0x3F) == 6 || (v[0] == 0xA0 && (v[1] & 0xF0) == 0 && v[2] == 0))
        d->data_may_come = 1;
    return fota_xtensa(d, &d->old, v, n, pc, (int)d->data_may_come);
}

static uint32_t fota_jal(uint32_t w) { return fota_sext((w >> 31) << 20 | (w >> 12 & 255) << 12 | (w >> 20 & 1) << 11 | (w >> 21 & 1023) << 1, 21); }
static uint32_t fota_b(uint32_t w) { return fota_sext((w >> 31) << 12 | (w >> 7 & 1) << 11 | (w >> 25 & 63) << 5 | (w >> 8 & 15) << 1, 13); }
static uint32_t fota_cj(uint32_t h) {
    return fota_sext((h >> 12 & 1) << 11 | (h >> 11 & 1) << 4 | (h >> 9 & 3) << 8 | (h >> 8 & 1) << 10 | (h >> 7 & 1) << 6 | (h >> 6 & 1) << 7 | (h >> 3 & 7) << 1 | (h >> 2 & 1) << 5, 12);
}
static uint32_t fota_cb(uint32_t h) { return fota_sext((h >> 12 & 1) << 8 | (h >> 10 & 3) << 3 | (h >> 5 & 3) << 6 | (h >> 3 & 3) << 1 | (h >> 2 & 1) << 5, 9); }
static int fota_adds_low(uint32_t w) {
    uint32_t op = w & 0x7F;
    return op == 0x13 || op == 0x03 || op == 0x67 || op == 0x23 || op == 0x07 || op == 0x27;
}
static int fota_odd_addi(uint32_t w) { return (w & 0x7F) == 0x13 && (w >> 12 & 7) != 0; }
static int fota_is_store(uint32_t w) { return (w & 0x7F) == 0x23 || (w & 0x7F) == 0x27; }
static uint32_t fota_low(uint32_t w) { return fota_sext(fota_is_store(w) ? w >> 25 << 5 | (w >> 7 & 31) : w >> 20, 12); }
static uint32_t fota_with_low(uint32_t w, uint32_t low) {
    low &= 0xFFF;
    return fota_is_store(w) ? (w & 0x01FFF07Fu) | low >> 5 << 25 | (low & 31) << 7 : (w & 0xFFFFFu) | low << 20;
}
static void fota_forget(struct fota_delta *d, uint32_t reg) {
    if (reg != 3) d->known &= ~(1u << reg);
}

/* The offset of the instruction within `count` ones that uses the register of the first; 0 if none. */
static uint32_t fota_used(const uint8_t *v, uint32_t n, uint32_t count) {
    uint32_t at = 4, reg = fota_part(v, 4) >> 7 & 31;
    for (; count--; at += 4) {
        uint32_t w;
        if (at + 2 > n) return 0;
        if ((v[at] & 3) != 3) {
            at -= 2;
            continue;
        }
        if (at + 4 > n) return 0;
        w = fota_part(v + at, 4);
        if (fota_adds_low(w) && (w >> 15 & 31) == reg) return at;
    }
    return 0;
}

static struct fota_unit fota_riscv(struct fota_delta *d, const uint8_t *v, uint32_t n, uint32_t pc) {
    struct fota_unit unit = fota_plain(4);
    uint32_t w, op, target, k;
    if (pc & 1) return fota_plain(1);
    if (n < 2) return fota_plain(n);
    if ((v[0] & 3) != 3) {
        uint32_t h = fota_part(v, 2), which = (h & 3) << 3 | h >> 13;
        if (which == 0 || which == 2) fota_forget(d, 8 + (h >> 2 & 7));
        if (which == 8 || which == 10 || which == 11 || which == 16 || which == 18 || which == 20) fota_forget(d, h >> 7 & 31);
        if (which == 12) fota_forget(d, 8 + (h >> 7 & 7));
        if (which == 9 || which == 13) return fota_when(fota_is_address(d, &d->old, pc + fota_cj(h)), 2, FOTA_JUMP, pc + fota_cj(h), 2);
        if (which == 14 || which == 15) return fota_when(fota_is_address(d, &d->old, pc + fota_cb(h)), 2, FOTA_BRANCH, pc + fota_cb(h), 2);
        return fota_plain(2);
    }
    if (n < 4) return fota_plain(n);
    w = fota_part(v, 4);
    op = w & 0x7F;
    if (op == 0x6F) {
        target = pc + fota_jal(w);
        unit = fota_when(fota_is_address(d, &d->old, target) || fota_is_rom(target), 4, FOTA_CALL, target, 0);
    } else if (op == 0x63) {
        target = pc + fota_b(w);
        unit = fota_when(fota_is_address(d, &d->old, target), 4, FOTA_BRANCH, target, 4);
    } else if (op == 0x17 || op == 0x37) {
        k = fota_used(v, n, 4);
        if (k && k <= 20) {
            uint32_t second = fota_part(v + k, 4), high = (op == 0x17 ? pc : 0) + (w & ~0xFFFu), second_op = second & 0x7F;
            target = high + fota_low(second);
            if (!fota_odd_addi(second) && (fota_is_address(d, &d->old, target) || fota_is_rom(target))) {
                if ((w >> 7 & 31) != 3) d->high[w >> 7 & 31] = high, d->known |= 1u << (w >> 7 & 31);
                if (second_op == 0x13 || second_op == 0x03 || second_op == 0x67) fota_forget(d, second >> 7 & 31);
                return fota_when(1, k + 4, op == 0x17 ? FOTA_PAIR : FOTA_LOAD, target, k);
            }
        }
    } else if ((pc & 3) == 2 && n >= 6 && fota_is_at_offset(&d->old, fota_part(v + 2, 4))) {
        return fota_plain(2);
    } else if (fota_adds_low(w) && !fota_odd_addi(w) && d->known >> (w >> 15 & 31) & 1) {
        target = d->high[w >> 15 & 31] + fota_low(w);
        unit = fota_when(fota_is_address(d, &d->old, target) || fota_is_rom(target), 4, FOTA_LOW, target, 0);
    }
    if (op == 0x13 || op == 0x33 || op == 0x03 || op == 0x37 || op == 0x17 || op == 0x6F || op == 0x67) fota_forget(d, w >> 7 & 31);
    return unit;
}

static uint32_t fota_bl(uint32_t w) {
    uint32_t s = w >> 10 & 1, i1 = (w >> 29 & 1) ^ s ^ 1, i2 = (w >> 27 & 1) ^ s ^ 1;
    return fota_sext(s << 24 | i1 << 23 | i2 << 22 | (w & 0x3FF) << 12 | (w >> 16 & 0x7FF) << 1, 25);
}

static struct fota_unit fota_thumb(const struct fota_delta *d, const struct fota_layout *l, const uint8_t *v, uint32_t n, uint32_t pc) {
    uint32_t w, high;
    if (n < 2) return fota_plain(n);
    if (v[1] >> 3 < 0x1D) return fota_plain(2);
    if (n < 4) return fota_plain(n);
    w = fota_part(v, 4);
    high = w >> 16 & 0xD000;
    return fota_when((w & 0xF800) == 0xF000 && (high == 0xD000 || high == 0x9000) && fota_is_address(d, l, pc + 4 + fota_bl(w)), 4, FOTA_CALL, pc + 4 + fota_bl(w), 0);
}

static struct fota_unit fota_unit_at(struct fota_delta *d, const uint8_t *v, uint32_t n, uint32_t pc) {
    int in_code = fota_is_code(d, pc);
    uint32_t word, k;
    if (d->windowed && in_code) return fota_windowed(d, v, n, pc);
    if (pc % 4 == 0 && n >= 4) {
        word = fota_part(v, 4);
        if (fota_is_address(d, &d->old, word) &&
            !(d->set == SET_RISCV && ((word & 0x7F) == 0x37 || (word & 0x7F) == 0x17) && word >> 12 && fota_used(v, n, 5)))
            return fota_when(1, 4, FOTA_POINTER, word, 0);
    }
    if (!in_code && d->set != SET_THUMB && n >= 7)
        for (k = 0; k < 4; k++) {
            if (((pc + k) & 3) == 0) {
                if (k) break;
                continue;
            }
            word = fota_part(v + k, 4);
            if (fota_is_at_offset(&d->old, word)) return k ? fota_plain(k) : fota_when(1, 4, FOTA_POINTER, word, 0);
        }
    if (d->set == SET_NONE || (!in_code && d->set != SET_THUMB)) return fota_plain(4 - (pc & 3));
    if (d->set == SET_XTENSA) return fota_xtensa(d, &d->old, v, n, pc, 1);
    if (d->set == SET_RISCV) return fota_riscv(d, v, n, pc);
    return fota_thumb(d, &d->old, v, n, pc);
}

/* Reads the view at `at`, up to `end`; then the unit. */
static int fota_unit(struct fota_delta *d, uint32_t at, uint32_t end, uint8_t view[40], struct fota_unit *unit) {
    uint32_t n = fota_min(40, end - at), pc;
    if (d->io->read_old(d->io->user, at, view, n)) return fota_fail(d, "the old image cannot be read");
    *unit = fota_address(&d->old, at, 0, &pc) ? fota_unit_at(d, view, n, pc) : fota_plain(4);
    if (unit->bytes > n) *unit = fota_plain(n);
    return 0;
}

/* Writing and reading references. */
static int fota_write(const struct fota_delta *d, uint8_t *at, const struct fota_unit *u, uint32_t pc, uint32_t target) {
    uint32_t w = fota_part(at, u->bytes < 4 ? u->bytes : 4), far = target - pc, next = target - pc - 4;
    if (u->kind == FOTA_POINTER) {
        fota_put(at, target, 4);
        return 1;
    }
    if (d->set == SET_XTENSA) {
        uint32_t call = target - ((pc & ~3u) + 4), load = target - ((pc + 3) & ~3u);
        w &= 0xFFFFFF;
        if (u->kind == FOTA_CALL && call % 4 == 0 && fota_fits(call, 20)) w = (w & 0x3F) | call >> 2 << 6;
        else if (u->kind == FOTA_LOAD && load % 4 == 0 && load >= 0xFFFC0000u) w = (w & 0xFF) | load >> 2 << 8;
        else if (u->kind == FOTA_JUMP && fota_fits(next, 18)) w = (w & 0x3F) | next << 6;
        else if (u->kind == FOTA_BRANCH && u->extra == 12 && fota_fits(next, 12)) w = (w & 0xFFF) | next << 12;
        else if (u->kind == FOTA_BRANCH && u->extra == 8 && fota_fits(next, 8)) w = (w & 0xFFFF) | next << 16;
        else return 0;
        fota_put(at, w, 3);
        return 1;
    }
    if (d->set == SET_THUMB) {
        uint32_t s = next >> 24 & 1, j1 = (next >> 23 & 1) ^ s ^ 1, j2 = (next >> 22 & 1) ^ s ^ 1;
        if (u->kind != FOTA_CALL || !fota_fits(next, 25)) return 0;
        fota_put(at, (w & 0xD000F800u) | s << 10 | (next >> 12 & 0x3FF) | j1 << 29 | j2 << 27 | (next >> 1 & 0x7FF) << 16, 4);
        return 1;
    }
    if (u->kind == FOTA_CALL && fota_fits(far, 21)) {
        fota_put(at, (w & 0xFFF) | (far >> 20 & 1) << 31 | (far >> 1 & 0x3FF) << 21 | (far >> 11 & 1) << 20 | (far >> 12 & 255) << 12, 4);
    } else if (u->kind == FOTA_BRANCH && u->extra == 4 && fota_fits(far, 13)) {
        fota_put(at, (w & 0x01FFF07Fu) | (far >> 12 & 1) << 31 | (far >> 5 & 63) << 25 | (far >> 1 & 15) << 8 | (far >> 11 & 1) << 7, 4);
    } else if (u->kind == FOTA_JUMP && fota_fits(far, 12)) {
        fota_put(at, (w & 0xE003) | (far >> 11 & 1) << 12 | (far >> 4 & 1) << 11 | (far >> 8 & 3) << 9 | (far >> 10 & 1) << 8 | (far >> 6 & 1) << 7 | (far >> 7 & 1) << 6 | (far >> 1 & 7) << 3 | (far >> 5 & 1) << 2, 2);
    } else if (u->kind == FOTA_BRANCH && u->extra == 2 && fota_fits(far, 9)) {
        fota_put(at, (w & 0xE383) | (far >> 8 & 1) << 12 | (far >> 3 & 3) << 10 | (far >> 6 & 3) << 5 | (far >> 1 & 3) << 3 | (far >> 5 & 1) << 2, 2);
    } else if (u->kind == FOTA_PAIR || u->kind == FOTA_LOAD) {
        uint32_t v = u->kind == FOTA_PAIR ? far : target;
        fota_put(at, (w & 0xFFF) | ((v + 0x800) & ~0xFFFu), 4);
        fota_put(at + u->extra, fota_with_low(fota_part(at + u->extra, 4), v), 4);
    } else if (u->kind == FOTA_LOW) {
        uint32_t low = target;
        if ((w >> 15 & 31) == 3 && d->new.gp) {
            low = target - d->new.gp;
            if (!fota_fits(low, 12)) return 0;
        }
        fota_put(at, fota_with_low(w, low), 4);
    } else {
        return 0;
    }
    return 1;
}

static int fota_read(const struct fota_delta *d, const uint8_t *new, const uint8_t *old, const struct fota_unit *u, uint32_t pc, uint32_t *target) {
    uint32_t w, change;
    if (u->kind == FOTA_NONE || u->kind == FOTA_BRANCH || u->kind == FOTA_LOW) return 0;
    w = fota_part(new, u->bytes < 4 ? u->bytes : 4);
    change = w ^ fota_part(old, u->bytes < 4 ? u->bytes : 4);
    if (u->kind == FOTA_POINTER) {
        *target = w;
        return 1;
    }
    if (d->set == SET_XTENSA) {
        if (change & (u->kind == FOTA_LOAD ? 0xFF : 0x3F)) return 0;
        *target = u->kind == FOTA_CALL ? (pc & ~3u) + 4 + fota_sext(w >> 6, 18) * 4
                : u->kind == FOTA_LOAD ? ((pc + 3) & ~3u) + (0xFFFF0000u | w >> 8) * 4 : pc + 4 + fota_sext(w >> 6, 18);
        return 1;
    }
    if (u->kind == FOTA_JUMP) return 0;
    if (d->set == SET_THUMB) {
        if (change & 0xD000F800u) return 0;
        *target = pc + 4 + fota_bl(w);
        return 1;
    }
    if (change & 0xFFF) return 0;
    if (u->kind == FOTA_CALL) {
        *target = pc + fota_jal(w);
        return 1;
    }
    if ((new[u->extra] ^ old[u->extra]) & 0x7F) return 0;
    *target = (u->kind == FOTA_PAIR ? pc : 0) + (w & ~0xFFFu) + fota_low(fota_part(new + u->extra, 4));
    return 1;
}

/* Prediction. */
static int fota_mapped(const struct fota_delta *d, uint32_t target, uint32_t *address, uint32_t *source) {
    uint32_t at, after = 0, i, best = FOTA_BLOCKS, new_at;
    if (!fota_offset(&d->old, target, &at)) return 0;
    while (after < d->blocks && d->block[d->by_old[after]].from <= at) after++;
    for (i = after > 6 ? after - 6 : 0; i < after; i++) {
        const struct fota_block *b = &d->block[d->by_old[i]];
        if (at - b->from < b->bytes && (best == FOTA_BLOCKS || b->bytes > d->block[best].bytes)) best = d->by_old[i];
    }
    if (best != FOTA_BLOCKS) {
        new_at = at + d->block[best].at - d->block[best].from;
        *source = 2;
    } else {
        const struct fota_block *before, *behind;
        if (after == 0 || after == d->blocks) return 0;
        before = &d->block[d->by_old[after - 1]];
        behind = &d->block[d->by_old[after]];
        if (before->at - before->from != behind->at - behind->from) return 0;
        new_at = at + before->at - before->from;
        *source = 3;
    }
    return fota_address_near(&d->new, new_at, address);
}

static uint32_t fota_page(const struct fota_delta *d, uint32_t t) { return ((t >> 8) * 0x9E3779B1u >> 8) % (d->small ? 32 : 256); }
static uint32_t fota_predicted(const struct fota_delta *d, uint32_t t, int is_mapped, uint32_t mapped, uint32_t *source) {
    uint32_t i = (t * 0x9E3779B1u >> 16) % 64, page = fota_page(d, t), region = (t >> 14) % 64;
    if (t && d->lt[i] == t) return *source = 1, t + d->ls[i];
    if (is_mapped) return mapped;
    if (d->pt[page] && d->pt[page] == (t >> 8 & 0xFFFF)) return *source = 4, t + d->ps[page];
    if (d->gt[region] && d->gt[region] == (t >> 14 & 0xFFFF)) return *source = 5, t + d->gs[region];
    return *source = 0, t;
}

static void fota_learned(struct fota_delta *d, uint32_t t, uint32_t n, int is_mapped, uint32_t mapped) {
    uint32_t i = (t * 0x9E3779B1u >> 16) % 64, page = fota_page(d, t), region = (t >> 14) % 64;
    if (!is_mapped || mapped != n || d->lt[i] == t) d->lt[i] = t, d->ls[i] = n - t;
    d->pt[page] = (uint16_t)(t >> 8), d->ps[page] = n - t;
    d->gt[region] = (uint16_t)(t >> 14), d->gs[region] = n - t;
}

/* Instructions of the new image. */
static uint32_t fota_new_at(const struct fota_delta *d) { return d->chunk_at + d->filled; }

static int fota_enter(struct fota_delta *d, uint32_t at, uint32_t *address) {
    uint32_t i, in_code = 0, has = 0;
    *address = 0;
    for (i = 0; i < d->new.count && !has; i++) {
        const struct fota_segment *s = &d->new.segment[i];
        if (at - s->offset >= s->bytes) continue;
        has = 1;
        *address = s->address + (at - s->offset);
        in_code = (uint32_t)fota_is_code(d, s->address);
    }
    if (in_code != d->code_here) d->code_here = in_code, d->f = d->n = 0;
    if (!in_code) d->n = *address & 3;
    return (int)has;
}

static void fota_note(struct fota_delta *d, uint32_t kind, uint32_t target) {
    uint32_t i = 0;
    if (kind == FOTA_LOAD) d->load = target;
    if (kind != FOTA_CALL) return;
    while (i < 31 && d->calls[i] != target) i++;
    memmove(d->calls + 1, d->calls, i * sizeof *d->calls);
    d->calls[0] = target;
}

/* A byte of code; `address` is its address if what it ends is to be noted, else 0. */
static void fota_code_byte(struct fota_delta *d, uint8_t byte, uint32_t address) {
    uint32_t first, length;
    d->f |= (uint32_t)byte << 8 * d->n++;
    first = d->f & 255;
    if (d->set == SET_XTENSA) length = first == 0 ? 1 : (first & 15) >= 8 && (first & 15) <= 13 ? 2 : 3;
    else if (d->set == SET_RISCV) length = (first & 3) == 3 ? 4 : 2;
    else length = d->n >= 2 && (d->f >> 11 & 31) >= 0x1D ? 4 : 2;
    if (d->n < length) return;
    if (address) {
        struct fota_unit unit = fota_plain(1);
        uint32_t pc = address + 1 - d->n;
        uint8_t whole[4];
        fota_put(whole, d->f, 4);
        if (d->set == SET_XTENSA && d->n == 3) unit = fota_xtensa(d, &d->new, whole, 3, pc, 0);
        if (d->set == SET_THUMB && d->n == 4) unit = fota_thumb(d, &d->new, whole, 4, pc);
        if (d->set == SET_RISCV && d->n == 4 && (d->f & 0x7F) == 0x6F) {
            unit.target = pc + fota_jal(d->f);
            if (fota_is_address(d, &d->new, unit.target) || fota_is_rom(unit.target)) unit.kind = FOTA_CALL;
        }
        fota_note(d, unit.kind, unit.target);
    }
    d->e = d->e << 8 | first;
    d->f = d->n = 0;
}

static int fota_emit(struct fota_delta *d, uint8_t byte) {
    d->c2 = d->c1;
    d->c1 = byte;
    fota_sha_byte(d, byte);
    d->chunk[d->filled++] = byte;
    if (d->filled < FOTA_CHUNK && fota_new_at(d) < d->new_bytes) return 0;
    if (d->io->write_new(d->io->user, d->chunk_at, d->chunk, d->filled)) return fota_fail(d, "a chunk was refused");
    d->chunk_at += d->filled;
    d->filled = 0;
    return 0;
}

/* A byte of a literal, a match or a named instruction. */
static int fota_fresh(struct fota_delta *d, uint8_t byte) {
    uint32_t address;
    int has = fota_enter(d, fota_new_at(d), &address);
    if (d->code_here) fota_code_byte(d, byte, has ? address : 0);
    return fota_emit(d, byte);
}

/* The byte at `at` of the old image followed by the new one. */
static int fota_seen(struct fota_delta *d, uint32_t at, uint8_t *byte) {
    if (at < d->old_bytes) return d->io->read_old(d->io->user, at, byte, 1) ? fota_fail(d, "the old image cannot be read") : 0;
    at -= d->old_bytes;
    if (at >= d->chunk_at) {
        *byte = d->chunk[at - d->chunk_at];
        return 0;
    }
    return d->io->read_new(d->io->user, at, byte, 1) ? fota_fail(d, "the new image cannot be read") : 0;
}

/* Literals. */
static void fota_use(struct fota_delta *d, uint32_t distance) {
    uint32_t i = 0;
    while (i < 3 && d->rep[i] != distance) i++;
    memmove(d->rep + 1, d->rep, i * sizeof *d->rep);
    d->rep[0] = distance;
}

/* The instruction that has begun, if it leads to `target`. */
static int fota_leading(const struct fota_delta *d, uint32_t kind, uint32_t pc, uint32_t target, uint8_t bytes[4]) {
    struct fota_unit unit = {4, 0, 0, 0};
    uint32_t i;
    fota_put(bytes, d->f | (d->set == SET_THUMB ? 0xF8000000u : 0), 4);
    unit.kind = kind;
    if (!fota_write(d, bytes, &unit, pc, target)) return 0;
    for (i = 0; i < d->n; i++)
        if (bytes[i] != (d->f >> 8 * i & 255)) return 0;
    return 1;
}

/* 1 if the rest of an instruction was named, 0 if there is none to be, -1 if it cannot be. */
static int fota_named(struct fota_delta *d, uint32_t left, uint32_t address) {
    uint32_t kind, more = 2, i, place, pc = address - d->n, begun = d->n;
    uint8_t bytes[4], *v;
    if (d->set == SET_XTENSA && d->n == 1 && (d->f & 15) == 5) kind = FOTA_CALL;
    else if (d->set == SET_XTENSA && d->n == 1 && (d->f & 15) == 1) kind = FOTA_LOAD;
    else if (d->set == SET_RISCV && d->n == 1 && d->f == 0xEF) kind = FOTA_CALL, more = 3;
    else if (d->set == SET_THUMB && d->n == 2 && d->f >> 11 == 0x1E) kind = FOTA_CALL;
    else return 0;
    if (more > left) return 0;
    v = kind == FOTA_LOAD ? &d->vl : &d->vc;
    i = fota_flag(d, 24u + (kind == FOTA_LOAD ? 8 : 0) + (*v & 7u));
    *v = (uint8_t)(*v << 1 | i);
    if (!i) return 0;
    if (kind == FOTA_LOAD) {
        if (!fota_leading(d, kind, pc, d->load + 4 * fota_signed(d, 14), bytes)) return fota_fail(d, "a load leads to nowhere");
    } else {
        place = fota_number(d, 13);
        for (i = 0; i < 32; i++)
            if (fota_leading(d, kind, pc, d->calls[i], bytes) && place-- == 0) break;
        if (i == 32) return fota_fail(d, "a call leads to nowhere");
    }
    for (i = begun; i < begun + more; i++)
        if (fota_fresh(d, bytes[i])) return -1;
    d->a = 0;
    return 1;
}

static uint8_t fota_turn(uint8_t byte, uint32_t turned) { return turned ? (uint8_t)(byte << 4 | byte >> 4) : byte; }

static int fota_literal(struct fota_delta *d) {
    uint32_t p = d->old_bytes + fota_new_at(d), node = 1, context[6], agrees, i, bit, address;
    uint32_t state, turned;
    uint8_t g = 0;
    fota_enter(d, fota_new_at(d), &address);
    state = fota_min(d->n, 3) | (d->code_here ? 0 : 4);
    turned = d->code_here && d->n == 0;
    agrees = d->rep[0] > 0 && d->rep[0] <= p;
    if (agrees && fota_seen(d, p - d->rep[0], &g)) return -1;
    g = fota_turn(g, turned);
    for (i = 0; i < 8; i++) {
        context[0] = node | state << 8;
        context[1] = fota_hash(node, d->c1, 1);
        context[2] = fota_hash(node, d->c1 | d->c2 << 8, 2);
        context[3] = agrees ? fota_hash(node, g | d->a << 8, 4) : fota_hash(node, d->c2, 5);
        context[4] = fota_hash(node, d->f | state << 24, 12 + (d->e & 15));
        context[5] = fota_hash(node, (d->e & 0xFFFF) | state << 24, 9);
        bit = fota_mixed(d, LITERAL, context, state << 1 | agrees);
        if ((g >> (7 - i) & 1u) != bit) agrees = 0;
        node = node << 1 | bit;
    }
    d->a = 0;
    return fota_fresh(d, fota_turn((uint8_t)node, turned));
}

static uint32_t fota_distance(struct fota_delta *d, uint32_t length) {
    uint32_t node = 1, context[2], z = fota_min(length, 6) - 2, i, b, distance = 1, l = 1;
    for (i = 0; i < 5; i++) {
        context[0] = node | z << 5;
        context[1] = node;
        node = node << 1 | fota_mixed(d, DISTANCE, context, 0);
    }
    b = fota_min(node & 31, 26);
    for (i = 0; i < b; i++) {
        uint32_t bit;
        if (i < 2) {
            context[0] = 160 + 3 * (b - 1) + (i ? 1 + (distance & 1) : 0);
            context[1] = 32 + b;
            bit = fota_mixed(d, DISTANCE, context, 0);
        } else if (i + 2 >= b) {
            context[0] = 240 + l;
            context[1] = 60 + l;
            bit = fota_mixed(d, DISTANCE, context, 0);
            l = 2 * l + bit;
        } else {
            bit = fota_bit(d, 32768);
        }
        distance = 2 * distance + bit;
    }
    return distance;
}

static int fota_match(struct fota_delta *d, uint32_t left) {
    uint32_t f = (d->k >> 1 & 1) * 8, n = 0, length, distance;
    while (n < 4 && fota_flag(d, f + n)) n++;
    length = fota_number(d, n ? 12 : 11) + 2;
    distance = n ? d->rep[n - 1] : fota_distance(d, length);
    if (length > 16384 || length > left || distance == 0 || distance > d->old_bytes + fota_new_at(d))
        return fota_fail(d, "a match is outside of the images");
    if (n) {
        memmove(d->rep + 1, d->rep, (n - 1) * sizeof *d->rep);
    } else {
        memmove(d->rep + 1, d->rep, 3 * sizeof *d->rep);
    }
    d->rep[0] = distance;
    while (length--) {
        uint8_t byte;
        if (fota_seen(d, d->old_bytes + fota_new_at(d) - distance, &byte) || fota_fresh(d, byte)) return -1;
    }
    d->a = 1;
    return 0;
}

static int fota_literals(struct fota_delta *d, uint32_t bytes) {
    uint32_t end = fota_new_at(d) + bytes, back = d->old_bytes + fota_new_at(d) - d->cursor;
    if (bytes == 0) return 0;
    if (d->old_bytes && d->rep[0] != back) fota_use(d, back);
    d->a = 0;
    while (fota_new_at(d) < end && !d->error) {
        uint32_t context[2], left = end - fota_new_at(d), match, address;
        int named = 0;
        context[0] = d->k & 63;
        context[1] = fota_hash(d->k & 3, d->c1, 77);
        match = fota_mixed(d, TOKEN, context, 0);
        d->k = d->k << 1 | match;
        if (match) {
            if (fota_match(d, left)) return -1;
            continue;
        }
        if (fota_enter(d, fota_new_at(d), &address) && d->code_here) named = fota_named(d, left, address);
        if (named < 0 || (named == 0 && fota_literal(d))) return -1;
    }
    return d->error ? -1 : 0;
}

/* Copies. */
static uint32_t fota_segment_of(const struct fota_layout *l, uint32_t value, int is_address) {
    uint32_t i;
    for (i = 0; i < l->count; i++)
        if (value - (is_address ? l->segment[i].address : l->segment[i].offset) < l->segment[i].bytes) return (i & 7) + 1;
    return 0;
}

static void fota_headers(const struct fota_delta *d, uint32_t at, uint32_t bytes, uint8_t *expected) {
    uint32_t i, j;
    for (i = 0; i < d->new.count; i++) {
        uint8_t header[8];
        fota_put(header, d->new.segment[i].address, 4);
        fota_put(header + 4, d->new.segment[i].bytes, 4);
        for (j = 0; j < 8; j++)
            if (d->new.segment[i].offset - 8 + j - at < bytes) expected[d->new.segment[i].offset - 8 + j - at] = header[j];
    }
}

/* The unit's new bytes, of which `e` are expected: makes `e` what they are. */
static void fota_unit_bytes(struct fota_delta *d, const struct fota_unit *u, const uint8_t *o, uint8_t *e, uint32_t source, uint32_t place) {
    uint32_t differs = memcmp(o, e, u->bytes) != 0, kind = u->kind, w = (kind * 6 + source) * 2 + differs, len = u->bytes;
    uint32_t o0 = o[0], o1 = o[fota_min(1, len - 1)], o2 = o[fota_min(2, len - 1)], bits = 0, context[5], i, hit, any = 0;
    while (bits < 11 && d->r >> bits) bits++;
    context[0] = fota_hash(w, d->m & 15, 21);
    context[1] = fota_hash(o0 | o1 << 8 | o2 << 16, len, 11);
    context[2] = o0 | (d->m & 3) << 8 | (fota_min(len, 4) - 1) << 10;
    context[3] = (bits * 16 + (w & 15)) * 8 + (d->h[source] & 3u) * 2 + (d->m & 1);
    context[4] = fota_hash(place, w, 13);
    hit = fota_mixed(d, HIT, context, (kind & 7) * 2 + differs);
    if (differs || kind) d->h[source] = (uint8_t)(d->h[source] << 1 | hit);
    if (hit) {
        d->m <<= 1;
        d->r = fota_min(d->r + 1, 65535);
        return;
    }
    context[0] = w & 255;
    context[1] = fota_hash(w, d->m & 7, 5);
    if (differs && fota_mixed(d, SAME, context, kind)) {
        memcpy(e, o, len);
    } else {
        for (i = 0; i < len; i++) {
            uint32_t same = 0, node = 1;
            if (i + 1 < len || any) {
                context[0] = (kind * 8 + fota_min(i, 7)) * 8 + ((d->b & 3) << 1 | any);
                context[1] = e[i] | (d->b & 7) << 8;
                context[2] = fota_hash(kind | i << 4, (d->b & 15) | fota_min(d->r, 15) << 4, 7);
                same = fota_mixed(d, BYTE, context, kind);
            }
            d->b = d->b << 1 | !same;
            if (same) continue;
            any = 1;
            while (node < 256) {
                context[0] = node | (kind * 4 + fota_min(i, 3)) << 8;
                context[1] = fota_hash(node, e[i] | 0x100u, 8);
                context[2] = fota_hash(node, d->d | i << 8, 9);
                node = node << 1 | fota_mixed(d, DIFFERENCE, context, kind);
            }
            d->d = node & 255;
            e[i] = (uint8_t)(e[i] + d->d);
        }
    }
    d->m = d->m << 1 | 1;
    d->r = 0;
}

static int fota_copy_unit(struct fota_delta *d, uint32_t from, const struct fota_unit *u, const uint8_t *o) {
    uint8_t e[24];
    uint32_t at = fota_new_at(d), pc = 0, source = 0, place = 0, mapped = 0, found = 0, none, i;
    int is_mapped = 0, has_pc = 0, learned = 0;
    memcpy(e, o, u->bytes);
    if (u->kind == FOTA_NONE) {
        if (d->old.count && !fota_address(&d->old, from, 0, &none)) fota_headers(d, at, u->bytes, e);
    } else if (fota_address_near(&d->new, at, &pc)) {
        uint32_t target;
        has_pc = 1;
        is_mapped = fota_mapped(d, u->target, &mapped, &source);
        target = fota_predicted(d, u->target, is_mapped, mapped, &source);
        place = (fota_segment_of(&d->old, from, 0) << 4 | fota_segment_of(&d->old, u->target, 1)) << 2 | (u->target & 3);
        fota_write(d, e, u, pc, target);
    }
    fota_unit_bytes(d, u, o, e, source, place);
    if (has_pc && u->kind != FOTA_LOW && fota_read(d, e, o, u, pc, &found)) {
        fota_learned(d, u->target, found, is_mapped, mapped);
        learned = 1;
    }
    fota_enter(d, at, &none);
    if (d->code_here && u->kind == FOTA_NONE)
        for (i = 0; i < u->bytes; i++) fota_code_byte(d, e[i], 0);
    if (d->code_here && u->kind != FOTA_NONE) {
        d->e = d->e << 8 | e[0];
        d->f = d->n = 0;
        if (learned) fota_note(d, u->kind, found);
    }
    for (i = 0; i < u->bytes; i++)
        if (fota_emit(d, e[i])) return -1;
    return d->error ? -1 : 0;
}

static int fota_copy(struct fota_delta *d, uint32_t from, uint32_t bytes) {
    uint32_t at = from, end = from + bytes, i;
    struct fota_unit unit;
    uint8_t view[40];
    d->known = d->old.gp ? 1u << 3 : 0;
    d->high[3] = d->old.gp;
    d->data_may_come = 1;
    for (i = 0; bytes && i < d->old.count; i++) {
        const struct fota_segment *s = &d->old.segment[i];
        if (from - s->offset >= s->bytes) continue;
        at = (from > 48 ? from - 48 : 0) & ~3u;
        if (at < s->offset) at = s->offset;
        while (at < from) {
            if (fota_unit(d, at, d->old_bytes, view, &unit)) return -1;
            at += unit.bytes;
        }
        break;
    }
    while (from < end) {
        if (from < at) {
            unit = fota_plain(fota_min(fota_min(at - from, 24), end - from));
            if (d->io->read_old(d->io->user, from, view, unit.bytes)) return fota_fail(d, "the old image cannot be read");
        } else if (fota_unit(d, from, end, view, &unit)) {
            return -1;
        }
        if (fota_copy_unit(d, from, &unit, view)) return -1;
        from += unit.bytes;
    }
    d->cursor = end;
    return 0;
}

/* The payload. */
static int fota_in_old(const struct fota_delta *d, uint32_t at, uint32_t bytes) { return at <= d->old_bytes && bytes <= d->old_bytes - at; }

static int fota_front(struct fota_delta *d) {
    uint32_t segments, blocks, i, j, at = 0, from = 0;
    if (fota_target(d)) return -1;
    segments = fota_number(d, 0);
    blocks = fota_number(d, 2);
    if (segments > FOTA_SEGMENTS || blocks > (d->small ? 76 : FOTA_BLOCKS)) return fota_fail(d, "too many segments or blocks");
    d->coded = d->new_bytes;
    if (fota_flag(d, 18)) {
        if (d->new_bytes < 32) return fota_fail(d, "the image has no digest");
        d->coded -= 32;
    }
    for (i = 0; i < segments; i++) {
        struct fota_segment none = {0, 0, 0}, *s = &d->new.segment[i];
        const struct fota_segment *old = i < d->old.count ? &d->old.segment[i] : &none;
        const struct fota_segment *before = i && i - 1 < d->old.count ? &d->old.segment[i - 1] : &none;
        uint32_t end = i ? s[-1].offset + s[-1].bytes : 0;
        s->offset = end + (old->offset - (before->offset + before->bytes)) + fota_signed(d, 0);
        s->address = old->address + fota_signed(d, 0);
        s->bytes = old->bytes + fota_signed(d, 1);
        d->new.count = i + 1;
    }
    for (i = 0; i < blocks; i++) {
        uint32_t gap = fota_number(d, 3), bytes = fota_number(d, gap ? 4 : 5), shift = fota_signed(d, gap ? 6 : 7);
        at += gap;
        from += gap + shift;
        if (bytes == 0 || !fota_in_old(d, from, bytes) || at > d->coded || bytes > d->coded - at) return fota_fail(d, "a block is outside of the images");
        d->block[i].at = at, d->block[i].from = from, d->block[i].bytes = bytes;
        for (j = i; j > 0 && d->block[d->by_old[j - 1]].from > from; j--) d->by_old[j] = d->by_old[j - 1];
        d->by_old[j] = (uint16_t)i;
        d->blocks = i + 1;
        at += bytes;
        from += bytes;
    }
    return d->error ? -1 : 0;
}

static int fota_body(struct fota_delta *d) {
    uint32_t next = 0;
    while (fota_new_at(d) < d->coded && !d->error) {
        uint32_t due = next < d->blocks ? d->block[next].at : d->coded, left = due - fota_new_at(d), literals = left, bytes = 0, from = d->cursor;
        if (left == 0) {
            if (fota_copy(d, d->block[next].from, d->block[next].bytes)) return -1;
            next++;
            continue;
        }
        if (d->old_bytes && !fota_flag(d, 16)) {
            literals = fota_number(d, 8);
            bytes = fota_number(d, 9);
            from = d->cursor + literals + fota_signed(d, 10);
            if (literals + bytes == 0 || literals + bytes > left || !fota_in_old(d, from, bytes)) return fota_fail(d, "a copy is outside of the images");
        }
        if (fota_literals(d, literals) || (bytes && fota_copy(d, from, bytes))) return -1;
        if (bytes == 0) d->cursor = from;
    }
    return d->error ? -1 : 0;
}

static int fota_length(struct fota_delta *d, uint32_t *length) {
    uint32_t shift;
    *length = 0;
    for (shift = 0; shift < 28; shift += 7) {
        int byte = d->io->patch(d->io->user);
        if (byte < 0) return fota_fail(d, "the patch ends too early");
        *length |= (uint32_t)(byte & 0x7F) << shift;
        if (byte & 0x80) continue;
        if (*length > 1u << 24 || (byte == 0 && shift)) break;
        return 0;
    }
    return fota_fail(d, "a length is wrong");
}

/* Applies a patch: 0 if the new image was handed out whole and has the digest that the patch names. */
int fota_delta_apply(struct fota_delta *d, const struct fota_delta_io *io) {
    static const uint32_t sha[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint8_t wanted[32], digest[32];
    int start[4], i, byte, j;
    uint32_t at;
    memset(d, 0, sizeof *d);
    d->io = io;
    for (i = 0; i < 4; i++) start[i] = io->patch(io->user);
    if (start[0] != 'f' || start[1] != 'd' || start[2] != 1 || start[3] < 0 || start[3] > 1) return fota_fail(d, "no patch that this decoder knows");
    d->small = (uint32_t)start[3];
    if (fota_length(d, &d->new_bytes) || fota_length(d, &d->old_bytes) || fota_length(d, &d->payload_left)) return -1;
    for (i = 0; i < (d->old_bytes ? 64 : 32); i++) {
        if ((byte = io->patch(io->user)) < 0) return fota_fail(d, "the patch ends too early");
        if (i < 32) wanted[i] = (uint8_t)byte;
    }
    memcpy(d->sha, sha, sizeof sha);
    for (at = 0; at < sizeof d->slot / sizeof *d->slot; at++) d->slot[at] = 0x8000;
    for (i = 0, at = 0; i < MIXERS; i++)
        for (j = 0; j < fota_mixers[i].inputs * fota_mixers[i].sets; j++) d->weight[at++] = fota_mixers[i].first_weight;
    d->range = 0xFFFFFFFFu;
    for (i = 0; i < 4; i++) d->code = d->code << 8 | fota_next(d);
    if (fota_front(d) || fota_body(d)) return -1;
    fota_sha_now(d, digest);
    for (i = 0; i < 32 && d->coded < d->new_bytes; i++)
        if (fota_emit(d, digest[i])) return -1;
    fota_sha_now(d, digest);
    if (d->payload_left) return fota_fail(d, "the payload is longer than the image needs");
    return memcmp(digest, wanted, 32) == 0 ? 0 : fota_fail(d, "the new image is not the one that the patch names");
}
