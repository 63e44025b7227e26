/*
 * Verifies fota's signed objects: roots, releases, signed answers (docs/signed-objects.md).
 *
 * One header, C99, no heap, no state. It needs SHA-256 and ECDSA on P-256 from Mbed TLS:
 *
 *   default                   mbedtls_* of 2.28 and 3.x: ESP-IDF 5, Arduino-ESP32 3
 *   #define FOTA_VERIFY_PSA   psa_* : ESP-IDF 6, Mbed TLS 4; call psa_crypto_init() first
 *
 * What is signed is verified before a byte of it is looked at. Results point into the bytes that
 * were verified: keep them. Every function gives 0 where the object is trusted, and otherwise a
 * negative number of which nothing may be used.
 *
 *   struct fota_root root;
 *   struct fota_release release;
 *   if (fota_root_first(root_1, sizeof root_1, &root) == 0 &&
 *       fota_release_verify(&root, bytes, length, &release) == 0)
 *       ... release.image is the SHA-256 that the flash must have ...
 *
 * Tested with the vectors in docs/vectors/signed by `cargo xtask ci --only c-verifier`.
 */
#ifndef FOTA_VERIFY_H
#define FOTA_VERIFY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef FOTA_VERIFY_PSA
#include <psa/crypto.h>
#else
#include <mbedtls/ecdsa.h>
#include <mbedtls/sha256.h>
#include <mbedtls/version.h>
#endif

#define FOTA_OBJECT_BYTES_MAX 1024
#define FOTA_SIGNATURES_MAX 6
#define FOTA_KEYS_MAX 8
#define FOTA_DELTAS_MAX 2

enum {
    FOTA_OK = 0,
    FOTA_ENVELOPE = -1,  /* no object of this scheme */
    FOTA_THRESHOLD = -2, /* too few valid signatures */
    FOTA_PAYLOAD = -3,   /* signed, but not what it should be */
    FOTA_VERSION = -4    /* a root that does not follow the trusted one */
};

struct fota_bytes {
    const uint8_t *at;
    size_t bytes;
};

struct fota_signature {
    uint8_t alg; /* last byte of the protected header: 0x28 is ESP256 */
    const uint8_t *kid;   /* 8 bytes */
    const uint8_t *bytes; /* 64 bytes */
};

struct fota_envelope {
    int is_sign1;
    struct fota_bytes payload;
    unsigned signatures;
    struct fota_signature signature[FOTA_SIGNATURES_MAX];
};

struct fota_role {
    uint8_t threshold;
    uint8_t count;
    uint8_t keys[FOTA_KEYS_MAX]; /* indexes into fota_root.key */
};

enum { FOTA_ROLE_ROOT, FOTA_ROLE_RELEASE, FOTA_ROLE_ONLINE };

struct fota_root {
    uint32_t version;
    unsigned keys;
    struct fota_bytes key[FOTA_KEYS_MAX]; /* 65 bytes: P-256; 32 bytes: Ed25519 */
    struct fota_role role[3];
    uint64_t expires;          /* 0: never */
    struct fota_bytes product; /* at == NULL: all */
};

struct fota_delta {
    const uint8_t *from; /* 32 bytes */
    uint32_t bytes;
    const uint8_t *patch; /* 32 bytes */
};

struct fota_release {
    struct fota_bytes product, version, pages, advisory;
    uint16_t chip;
    uint16_t hardware_low, hardware_high; /* 0 to 65535 where all are allowed */
    uint32_t sequence, epoch, bytes;
    const uint8_t *image; /* SHA-256 of the image */
    const uint8_t *elf;   /* app_elf_sha256 in it */
    unsigned deltas;
    struct fota_delta delta[FOTA_DELTAS_MAX];
    uint64_t expires, support_until; /* 0: never */
    uint16_t self_test_deadline_s;   /* 0: as the order says */
    uint8_t trial_attempts;          /* 0: as the device likes */
};

/* ---- a reader of deterministic CBOR: shortest heads, definite lengths ---- */

struct fota_cbor {
    const uint8_t *at, *end;
    int failed;
};

/* The argument of an item of this major type (0 to 7). */
static inline uint64_t fota_head(struct fota_cbor *c, unsigned major) {
    static const uint64_t shortest[4] = {24, 0x100, 0x10000, 0x100000000};
    uint64_t value = 0;
    unsigned info, size, i;
    if (c->failed || c->at == c->end || *c->at >> 5 != major) {
        c->failed = 1;
        return 0;
    }
    info = *c->at++ & 31;
    if (info < 24) return info;
    if (info > 27 || (size_t)(c->end - c->at) < (size_t)1 << (info - 24)) {
        c->failed = 1;
        return 0;
    }
    size = 1u << (info - 24);
    for (i = 0; i < size; i++) value = value << 8 | *c->at++;
    if (value < shortest[info - 24]) c->failed = 1;
    return c->failed ? 0 : value;
}

static inline uint64_t fota_uint(struct fota_cbor *c, uint64_t max) {
    uint64_t value = fota_head(c, 0);
    if (value > max) c->failed = 1;
    return c->failed ? 0 : value;
}

/* A byte string (major 2) or a text (major 3). */
static inline struct fota_bytes fota_string(struct fota_cbor *c, unsigned major) {
    struct fota_bytes s = {NULL, 0};
    uint64_t bytes = fota_head(c, major);
    if (c->failed || bytes > (size_t)(c->end - c->at)) {
        c->failed = 1;
        return s;
    }
    s.at = c->at;
    s.bytes = (size_t)bytes;
    c->at += s.bytes;
    return s;
}

static inline const uint8_t *fota_fixed(struct fota_cbor *c, size_t bytes) {
    struct fota_bytes s = fota_string(c, 2);
    if (s.bytes != bytes) c->failed = 1;
    return c->failed ? NULL : s.at;
}

static inline void fota_array(struct fota_cbor *c, uint64_t length) {
    if (fota_head(c, 4) != length) c->failed = 1;
}

static inline int fota_is_utf8(struct fota_bytes s) {
    size_t i = 0, more, k;
    while (i < s.bytes) {
        uint8_t b = s.at[i++], low = 0x80, high = 0xbf;
        if (b < 0x80) continue;
        if (b < 0xc2 || b > 0xf4) return 0;
        more = b < 0xe0 ? 1 : b < 0xf0 ? 2 : 3;
        if (b == 0xe0) low = 0xa0;
        if (b == 0xed) high = 0x9f;
        if (b == 0xf0) low = 0x90;
        if (b == 0xf4) high = 0x8f;
        for (k = 0; k < more; k++, low = 0x80, high = 0xbf) {
            if (i == s.bytes || s.at[i] < low || s.at[i] > high) return 0;
            i++;
        }
    }
    return 1;
}

static inline struct fota_bytes fota_text(struct fota_cbor *c, size_t min, size_t max) {
    struct fota_bytes s = fota_string(c, 3);
    if (s.bytes < min || s.bytes > max || !fota_is_utf8(s)) c->failed = 1;
    return s;
}

/* ---- the envelope: COSE_Sign1 (tag 18) or COSE_Sign (tag 98) ---- */

static inline void fota_headers(struct fota_cbor *c, struct fota_signature *s) {
    const uint8_t *header = fota_fixed(c, 3);
    if (header && header[0] == 0xa1 && header[1] == 0x01 && (header[2] == 0x28 || header[2] == 0x32))
        s->alg = header[2];
    else
        c->failed = 1;
    if (fota_head(c, 5) != 1 || fota_uint(c, 4) != 4) c->failed = 1;
    s->kid = fota_fixed(c, 8);
}

static inline int fota_envelope_parse(const uint8_t *object, size_t bytes, struct fota_envelope *out) {
    struct fota_cbor c = {object, object + bytes, bytes > FOTA_OBJECT_BYTES_MAX};
    uint64_t tag = fota_head(&c, 6), count;
    unsigned i;
    memset(out, 0, sizeof *out);
    fota_array(&c, 4);
    if (tag == 18) {
        out->is_sign1 = 1;
        out->signatures = 1;
        fota_headers(&c, &out->signature[0]);
        out->payload = fota_string(&c, 2);
        out->signature[0].bytes = fota_fixed(&c, 64);
    } else if (tag == 98) {
        if (fota_string(&c, 2).bytes != 0 || fota_head(&c, 5) != 0) c.failed = 1;
        out->payload = fota_string(&c, 2);
        count = fota_head(&c, 4);
        if (count > FOTA_SIGNATURES_MAX) return FOTA_ENVELOPE;
        for (i = 0; i < count && !c.failed; i++) {
            fota_array(&c, 3);
            fota_headers(&c, &out->signature[i]);
            out->signature[i].bytes = fota_fixed(&c, 64);
        }
        out->signatures = (unsigned)count;
    } else {
        return FOTA_ENVELOPE;
    }
    return c.failed || c.at != c.end ? FOTA_ENVELOPE : FOTA_OK;
}

/* ---- SHA-256 and ECDSA ---- */

#ifdef FOTA_VERIFY_PSA
static inline int fota_sha256(const struct fota_bytes *parts, unsigned count, uint8_t digest[32]) {
    psa_hash_operation_t op = PSA_HASH_OPERATION_INIT;
    psa_status_t status = psa_hash_setup(&op, PSA_ALG_SHA_256);
    size_t length;
    unsigned i;
    for (i = 0; i < count && status == PSA_SUCCESS; i++)
        status = psa_hash_update(&op, parts[i].at, parts[i].bytes);
    if (status == PSA_SUCCESS) status = psa_hash_finish(&op, digest, 32, &length);
    if (status != PSA_SUCCESS) psa_hash_abort(&op);
    return status == PSA_SUCCESS ? 0 : -1;
}

static inline int fota_ecdsa(const uint8_t key[65], const uint8_t digest[32], const uint8_t sig[64]) {
    psa_key_attributes_t attributes = PSA_KEY_ATTRIBUTES_INIT;
    psa_key_id_t id;
    psa_status_t status;
    psa_set_key_type(&attributes, PSA_KEY_TYPE_ECC_PUBLIC_KEY(PSA_ECC_FAMILY_SECP_R1));
    psa_set_key_bits(&attributes, 256);
    psa_set_key_usage_flags(&attributes, PSA_KEY_USAGE_VERIFY_HASH);
    psa_set_key_algorithm(&attributes, PSA_ALG_ECDSA(PSA_ALG_SHA_256));
    if (psa_import_key(&attributes, key, 65, &id) != PSA_SUCCESS) return -1;
    status = psa_verify_hash(id, PSA_ALG_ECDSA(PSA_ALG_SHA_256), digest, 32, sig, 64);
    psa_destroy_key(id);
    return status == PSA_SUCCESS ? 0 : -1;
}
#else
#if MBEDTLS_VERSION_MAJOR < 3
#define fota_sha256_starts mbedtls_sha256_starts_ret
#define fota_sha256_update mbedtls_sha256_update_ret
#define fota_sha256_finish mbedtls_sha256_finish_ret
#else
#define fota_sha256_starts mbedtls_sha256_starts
#define fota_sha256_update mbedtls_sha256_update
#define fota_sha256_finish mbedtls_sha256_finish
#endif

static inline int fota_sha256(const struct fota_bytes *parts, unsigned count, uint8_t digest[32]) {
    mbedtls_sha256_context ctx;
    unsigned i;
    int failed;
    mbedtls_sha256_init(&ctx);
    failed = fota_sha256_starts(&ctx, 0);
    for (i = 0; i < count && !failed; i++)
        failed = fota_sha256_update(&ctx, parts[i].at, parts[i].bytes);
    if (!failed) failed = fota_sha256_finish(&ctx, digest);
    mbedtls_sha256_free(&ctx);
    return failed;
}

static inline int fota_ecdsa(const uint8_t key[65], const uint8_t digest[32], const uint8_t sig[64]) {
    mbedtls_ecp_group group;
    mbedtls_ecp_point point;
    mbedtls_mpi r, s;
    int failed;
    mbedtls_ecp_group_init(&group);
    mbedtls_ecp_point_init(&point);
    mbedtls_mpi_init(&r);
    mbedtls_mpi_init(&s);
    failed = mbedtls_ecp_group_load(&group, MBEDTLS_ECP_DP_SECP256R1);
    if (!failed) failed = mbedtls_ecp_point_read_binary(&group, &point, key, 65);
    if (!failed) failed = mbedtls_ecp_check_pubkey(&group, &point);
    if (!failed) failed = mbedtls_mpi_read_binary(&r, sig, 32);
    if (!failed) failed = mbedtls_mpi_read_binary(&s, sig + 32, 32);
    if (!failed) failed = mbedtls_ecdsa_verify(&group, digest, 32, &point, &r, &s);
    mbedtls_mpi_free(&s);
    mbedtls_mpi_free(&r);
    mbedtls_ecp_point_free(&point);
    mbedtls_ecp_group_free(&group);
    return failed;
}
#endif

/* Whether this key has signed: the first signature with its id counts. Ed25519 keys count for
 * nothing here, because Mbed TLS has no Ed25519. */
static inline int fota_is_signed_by(const struct fota_envelope *e, struct fota_bytes key) {
    static const uint8_t sign1[] = "\x84\x6aSignature1", sign[] = "\x85\x69Signature\x40";
    static const uint8_t esp256[] = {0x43, 0xa1, 0x01, 0x28, 0x40};
    uint8_t digest[32], head[3] = {0x59, (uint8_t)(e->payload.bytes >> 8), (uint8_t)e->payload.bytes};
    struct fota_bytes parts[4] = {{sign1, sizeof sign1 - 1}, {esp256, 5}, {head, 3}, e->payload};
    unsigned i;
    if (key.bytes != 65 || key.at[0] != 4 || fota_sha256(&key, 1, digest)) return 0;
    for (i = 0; i < e->signatures && memcmp(e->signature[i].kid, digest, 8) != 0; i++) {
    }
    if (i == e->signatures || e->signature[i].alg != 0x28) return 0;
    if (!e->is_sign1) {
        parts[0].at = sign;
        parts[0].bytes = sizeof sign - 1;
    }
    if (e->payload.bytes < 24) {
        head[0] = 0x40 | head[2];
        parts[2].bytes = 1;
    } else if (e->payload.bytes < 256) {
        head[0] = 0x58;
        head[1] = head[2];
        parts[2].bytes = 2;
    }
    return fota_sha256(parts, 4, digest) == 0 && fota_ecdsa(key.at, digest, e->signature[i].bytes) == 0;
}

/* Whether enough distinct keys of a role have signed. */
static inline int fota_require(const struct fota_root *root, int role, const struct fota_envelope *e) {
    const struct fota_role *r = &root->role[role];
    unsigned found = 0, i;
    for (i = 0; i < r->count && found < r->threshold; i++)
        found += (unsigned)fota_is_signed_by(e, root->key[r->keys[i]]);
    return r->threshold > 0 && found == r->threshold ? FOTA_OK : FOTA_THRESHOLD;
}

/* ---- payloads: maps with rising integer keys, none of them unknown ---- */

/* The next key of a map, which must be above the last one. */
static inline int fota_next_key(struct fota_cbor *c, int last) {
    int key = (int)fota_uint(c, 23);
    if (key <= last) c->failed = 1;
    return key;
}

static inline void fota_role_parse(struct fota_cbor *c, struct fota_role *role) {
    uint64_t count;
    unsigned i;
    fota_array(c, 2);
    role->threshold = (uint8_t)fota_uint(c, 255);
    count = fota_head(c, 4);
    if (count > FOTA_KEYS_MAX) c->failed = 1;
    for (i = 0; i < count && !c->failed; i++) {
        role->keys[i] = (uint8_t)fota_uint(c, FOTA_KEYS_MAX - 1);
        if (i > 0 && role->keys[i] <= role->keys[i - 1]) c->failed = 1;
    }
    role->count = c->failed ? 0 : (uint8_t)count;
    if (role->threshold == 0 || role->threshold > role->count) c->failed = 1;
}

static inline void fota_keys_parse(struct fota_cbor *c, struct fota_root *root) {
    uint64_t count = fota_head(c, 4), alg;
    unsigned i, k;
    if (count > FOTA_KEYS_MAX) c->failed = 1;
    for (i = 0; i < count && !c->failed; i++) {
        fota_array(c, 2);
        alg = fota_head(c, 1); /* -1 - alg */
        root->key[i] = fota_string(c, 2);
        if (!(alg == 8 && root->key[i].bytes == 65) && !(alg == 18 && root->key[i].bytes == 32)) c->failed = 1;
        for (k = 0; k < i && !c->failed; k++)
            if (root->key[k].bytes == root->key[i].bytes &&
                memcmp(root->key[k].at, root->key[i].at, root->key[i].bytes) == 0)
                c->failed = 1;
    }
    root->keys = c->failed ? 0 : (unsigned)count;
}

static inline int fota_root_parse(struct fota_bytes payload, struct fota_root *out) {
    struct fota_cbor c = {payload.at, payload.at + payload.bytes, 0};
    uint64_t fields = fota_head(&c, 5);
    int key = -1, seen = 0;
    unsigned i;
    memset(out, 0, sizeof *out);
    while (fields-- > 0 && !c.failed) {
        key = fota_next_key(&c, key);
        seen |= 1 << key;
        switch (key) {
        case 0: if (fota_uint(&c, 255) != 0x10) c.failed = 1; break;
        case 1: out->version = (uint32_t)fota_uint(&c, UINT32_MAX); break;
        case 2: fota_keys_parse(&c, out); break;
        case 3: case 4: case 5: fota_role_parse(&c, &out->role[key - 3]); break;
        case 6: out->expires = fota_uint(&c, UINT64_MAX); break;
        case 7: out->product = fota_text(&c, 1, 32); break;
        default: c.failed = 1;
        }
    }
    if ((seen & 0x3f) != 0x3f || out->version == 0 || out->role[FOTA_ROLE_ONLINE].threshold != 1) c.failed = 1;
    for (i = 0; i < 3 && !c.failed; i++)
        if (out->role[i].keys[out->role[i].count - 1] >= out->keys) c.failed = 1;
    return c.failed || c.at != c.end ? FOTA_PAYLOAD : FOTA_OK;
}

static inline void fota_deltas_parse(struct fota_cbor *c, struct fota_release *out) {
    uint64_t count = fota_head(c, 4);
    unsigned i;
    if (count > FOTA_DELTAS_MAX) c->failed = 1;
    for (i = 0; i < count && !c->failed; i++) {
        fota_array(c, 3);
        out->delta[i].from = fota_fixed(c, 32);
        out->delta[i].bytes = (uint32_t)fota_uint(c, UINT32_MAX);
        out->delta[i].patch = fota_fixed(c, 32);
    }
    out->deltas = c->failed ? 0 : (unsigned)count;
}

static inline void fota_release_field(struct fota_cbor *c, int key, struct fota_release *out) {
    switch (key) {
    case 0: if (fota_uint(c, 255) != 0x11) c->failed = 1; break;
    case 1: out->product = fota_text(c, 1, 32); break;
    case 2: out->chip = (uint16_t)fota_uint(c, UINT16_MAX); break;
    case 3:
        fota_array(c, 2);
        out->hardware_low = (uint16_t)fota_uint(c, UINT16_MAX);
        out->hardware_high = (uint16_t)fota_uint(c, UINT16_MAX);
        if (out->hardware_low > out->hardware_high) c->failed = 1;
        break;
    case 4: out->version = fota_text(c, 1, 32); break;
    case 5: out->sequence = (uint32_t)fota_uint(c, UINT32_MAX); break;
    case 6: out->epoch = (uint32_t)fota_uint(c, UINT32_MAX); break;
    case 7: out->bytes = (uint32_t)fota_uint(c, 16u * 1024 * 1024); break;
    case 8: out->image = fota_fixed(c, 32); break;
    case 9: out->elf = fota_fixed(c, 32); break;
    case 10: out->pages = fota_string(c, 2); break;
    case 11: fota_deltas_parse(c, out); break;
    case 12: out->expires = fota_uint(c, UINT64_MAX); break;
    case 13:
        out->self_test_deadline_s = (uint16_t)fota_uint(c, UINT16_MAX);
        if (out->self_test_deadline_s == 0) c->failed = 1;
        break;
    case 14: out->trial_attempts = (uint8_t)fota_uint(c, UINT8_MAX); break;
    case 15: out->support_until = fota_uint(c, UINT64_MAX); break;
    case 16: out->advisory = fota_text(c, 0, 96); break;
    default: c->failed = 1;
    }
}

static inline int fota_release_parse(struct fota_bytes payload, struct fota_release *out) {
    struct fota_cbor c = {payload.at, payload.at + payload.bytes, 0};
    uint64_t fields = fota_head(&c, 5);
    uint32_t pages;
    int key = -1, seen = 0;
    memset(out, 0, sizeof *out);
    out->hardware_high = UINT16_MAX;
    while (fields-- > 0 && !c.failed) {
        key = fota_next_key(&c, key);
        seen |= 1 << key;
        fota_release_field(&c, key, out);
    }
    pages = out->bytes / (512 * 1024) + (out->bytes % (512 * 1024) != 0);
    /* All but 3 (hardware) of the fields up to 11 must be there. */
    if ((seen & 0xff7) != 0xff7 || out->sequence == 0 || out->bytes == 0 || out->pages.bytes != pages * 16)
        c.failed = 1;
    return c.failed || c.at != c.end ? FOTA_PAYLOAD : FOTA_OK;
}

/* ---- what a device calls ---- */

/* The root that firmware is built with: trusted because it is there. */
static inline int fota_root_first(const uint8_t *object, size_t bytes, struct fota_root *out) {
    struct fota_envelope e;
    int failed = fota_envelope_parse(object, bytes, &e);
    if (!failed) failed = fota_root_parse(e.payload, out);
    return failed ? failed : fota_require(out, FOTA_ROLE_ROOT, &e);
}

/* The root that follows `trusted` directly. */
static inline int fota_root_succeed(const struct fota_root *trusted, const uint8_t *object, size_t bytes,
                                    struct fota_root *out) {
    struct fota_envelope e;
    int failed = fota_envelope_parse(object, bytes, &e);
    if (!failed) failed = fota_require(trusted, FOTA_ROLE_ROOT, &e);
    if (!failed) failed = fota_root_parse(e.payload, out);
    if (!failed && out->version - 1 != trusted->version) failed = FOTA_VERSION;
    return failed ? failed : fota_require(out, FOTA_ROLE_ROOT, &e);
}

/* A release. The caller compares product, chip, hardware, sequence and epoch with its own. */
static inline int fota_release_verify(const struct fota_root *root, const uint8_t *object, size_t bytes,
                                      struct fota_release *out) {
    struct fota_envelope e;
    int failed = fota_envelope_parse(object, bytes, &e);
    if (!failed) failed = fota_require(root, FOTA_ROLE_RELEASE, &e);
    return failed ? failed : fota_release_parse(e.payload, out);
}

/* The payload of an answer, for the reader of docs/protocol.md. The caller compares its nonce. */
static inline int fota_answer_verify(const struct fota_root *root, const uint8_t *object, size_t bytes,
                                     struct fota_bytes *payload) {
    struct fota_envelope e;
    int failed = fota_envelope_parse(object, bytes, &e);
    if (!failed) failed = fota_require(root, FOTA_ROLE_ONLINE, &e);
    if (!failed) *payload = e.payload;
    return failed;
}

#endif
