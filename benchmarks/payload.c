/* The job that both sides run. Its first act is to stamp the clock.
 *
 *   payload STAMPS ID             stamp the start, stamp the end
 *   payload STAMPS ID pause USEC  sleep between the two
 *   payload STAMPS ID gate FIFO   wait between the two until somebody opens FIFO for writing
 *   payload STAMPS ID print MB    print so much in lines of 100 bytes between the two, each with a write of its own
 *   payload STAMPS ID tick FILE   print the time every half second between the two, until FILE exists
 *
 * A stamp is one appended line, "S|E ID MASK NANOSECONDS"; MASK is CUDA_VISIBLE_DEVICES.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void stamp(int fd, char kind, const char *id, long long at_ns) {
    const char *mask = getenv("CUDA_VISIBLE_DEVICES");
    char line[256];
    int length = snprintf(line, sizeof line, "%c %s %s %lld\n", kind, id, mask && *mask ? mask : "-", at_ns);
    if (write(fd, line, length) != length) _exit(3);
}

static void print(long long bytes) {
    char line[101];
    for (long long written = 0; written < bytes; written += 100) {
        snprintf(line, sizeof line, "%08lld %090d\n", written, 0);
        if (write(1, line, 100) != 100) _exit(5);
    }
}

static void tick(const char *until) {
    char line[64];
    while (access(until, F_OK)) {
        int length = snprintf(line, sizeof line, "%lld\n", now_ns());
        if (write(1, line, length) != length) _exit(5);
        usleep(500000);
    }
}

int main(int argc, char **argv) {
    long long started_ns = now_ns();
    if (argc < 3) return 2;
    int fd = open(argv[1], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return 4;
    stamp(fd, 'S', argv[2], started_ns);
    if (argc > 4 && !strcmp(argv[3], "pause")) usleep(atoi(argv[4]));
    if (argc > 4 && !strcmp(argv[3], "print")) print(atoll(argv[4]) * 1000000);
    if (argc > 4 && !strcmp(argv[3], "tick")) tick(argv[4]);
    if (argc > 4 && !strcmp(argv[3], "gate")) {
        int gate = open(argv[4], O_RDONLY);
        if (gate >= 0) close(gate);
    }
    stamp(fd, 'E', argv[2], now_ns());
    return 0;
}
