/* The fixup of a small release: a file that is as large as its release's number says, a
 * symlink, and one file less. Always with the same time, so that all of it is known before. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void set_time(const char *path) {
    const struct timespec times[2] = {{1750000000, 0}, {1750000000, 0}};
    if (utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW)) exit(3);
}

int main(void) {
    const char *release = getenv("ABUPDATE_RELEASE");
    int file = open("/etc/made", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (release == NULL || file < 0) return 1;
    for (int line = 0; line < 10000 * atoi(release); line++)
        if (write(file, "made\n", 5) != 5) return 2;
    if (fchmod(file, 0644) || close(file)) return 2;
    set_time("/etc/made");
    if (symlink("made", "/etc/made-again")) return 4;
    set_time("/etc/made-again");
    return unlink("/usr/bin/program-1") ? 5 : 0;
}
