/*
 * check_delta OLD PATCH NEW: whether fota_delta.c makes NEW of OLD and PATCH; exit 0 if so. OLD is - if
 * the patch needs none. Compiled and run by `cargo xtask ci --only c-verifier`; an example of use as well.
 */
#include "fota_delta.c"

#include <stdio.h>
#include <stdlib.h>

static struct fota_delta state;

struct file {
    uint8_t *bytes;
    size_t count, at;
};
struct files {
    struct file old, patch, new;
};

static struct file read_file(const char *path) {
    struct file file = {0, 0, 0};
    FILE *from = fopen(path, "rb");
    long bytes;
    if (!from || fseek(from, 0, SEEK_END) || (bytes = ftell(from)) < 0) {
        perror(path);
        exit(2);
    }
    rewind(from);
    file.count = (size_t)bytes;
    /* No longer than it is, so that a read behind its end is found. */
    file.bytes = malloc(file.count ? file.count : 1);
    if (!file.bytes || fread(file.bytes, 1, file.count, from) != file.count) exit(2);
    fclose(from);
    return file;
}

static int next_byte(void *user) {
    struct file *patch = &((struct files *)user)->patch;
    return patch->at < patch->count ? patch->bytes[patch->at++] : -1;
}

static int read_part(const struct file *file, size_t limit, uint32_t offset, uint8_t *to, uint32_t bytes) {
    if (offset > limit || bytes > limit - offset) return -1;
    memcpy(to, file->bytes + offset, bytes);
    return 0;
}

static int read_old(void *user, uint32_t offset, uint8_t *to, uint32_t bytes) {
    struct files *files = user;
    return read_part(&files->old, files->old.count, offset, to, bytes);
}

/* What was handed out was compared, so it is what is there. */
static int read_new(void *user, uint32_t offset, uint8_t *to, uint32_t bytes) {
    struct files *files = user;
    return read_part(&files->new, files->new.at, offset, to, bytes);
}

static int write_new(void *user, uint32_t offset, const uint8_t *from, uint32_t bytes) {
    struct file *file = &((struct files *)user)->new;
    if (offset != file->at || bytes > file->count - file->at || memcmp(file->bytes + offset, from, bytes) != 0) {
        fprintf(stderr, "differs within %u bytes from %u on\n", (unsigned)bytes, (unsigned)offset);
        return -1;
    }
    file->at += bytes;
    return 0;
}

int main(int argc, char **argv) {
    struct files files;
    struct fota_delta_io io = {0, next_byte, read_old, read_new, write_new};
    int failed;
    if (argc != 4) return 2;
    memset(&files, 0, sizeof files);
    if (strcmp(argv[1], "-") != 0) files.old = read_file(argv[1]);
    files.patch = read_file(argv[2]);
    files.new = read_file(argv[3]);
    io.user = &files;
    failed = fota_delta_apply(&state, &io);
    if (failed) fprintf(stderr, "%s\n", state.error);
    if (!failed && files.new.at != files.new.count) failed = 1;
    free(files.old.bytes);
    free(files.patch.bytes);
    free(files.new.bytes);
    return failed ? 1 : 0;
}
