/*
 * check KIND ROOT.hex OBJECT.hex: whether fota_verify.h trusts an object; exit 0 if so, 1 if not.
 * KIND is first_root, next_root, release or answer; ROOT.hex is - for first_root.
 * Compiled and run by `cargo xtask ci --only c-verifier`; it is an example of use as well.
 */
#include "fota_verify.h"

#include <stdio.h>
#include <stdlib.h>

static size_t read_hex(const char *path, uint8_t *out, size_t max) {
    FILE *file = fopen(path, "r");
    unsigned byte;
    size_t bytes = 0;
    if (!file) {
        perror(path);
        exit(2);
    }
    while (bytes < max && fscanf(file, "%2x", &byte) == 1) out[bytes++] = (uint8_t)byte;
    fclose(file);
    return bytes;
}

int main(int argc, char **argv) {
    uint8_t root_bytes[2048], room[2048];
    struct fota_root root, next;
    struct fota_release release;
    struct fota_bytes payload;
    uint8_t *object;
    size_t bytes;
    int failed = 2;
    if (argc != 4) return 2;
#ifdef FOTA_VERIFY_PSA
    if (psa_crypto_init() != PSA_SUCCESS) return 2;
#endif
    bytes = read_hex(argv[3], room, sizeof room);
    /* On the heap and no longer than it is, so that a read behind its end is found. */
    object = malloc(bytes ? bytes : 1);
    if (!object) return 2;
    memcpy(object, room, bytes);
    if (strcmp(argv[2], "-") != 0 &&
        fota_root_first(root_bytes, read_hex(argv[2], root_bytes, sizeof root_bytes), &root) != 0) {
        fprintf(stderr, "%s is no root\n", argv[2]);
        return 2;
    }
    if (strcmp(argv[1], "first_root") == 0) failed = fota_root_first(object, bytes, &next);
    if (strcmp(argv[1], "next_root") == 0) failed = fota_root_succeed(&root, object, bytes, &next);
    if (strcmp(argv[1], "release") == 0) failed = fota_release_verify(&root, object, bytes, &release);
    if (strcmp(argv[1], "answer") == 0) failed = fota_answer_verify(&root, object, bytes, &payload);
    if (failed == 0 && strcmp(argv[1], "release") == 0)
        printf("%.*s %u\n", (int)release.version.bytes, (const char *)release.version.at, release.sequence);
    free(object);
    return failed == 0 ? 0 : failed < 0 ? 1 : 2;
}
