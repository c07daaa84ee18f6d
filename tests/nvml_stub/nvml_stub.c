/* A libnvidia-ml.so.1 that answers what a state file says, read anew at each call.
 *
 * $NVML_STUB_STATE names the file; without one the driver is not loaded. Lines are KEY=VALUE:
 *
 *   count=2               number of cards
 *   init=!18              a value that begins with ! is the error that the call answers with
 *   hang=nvmlFunction     that function does not return while the line is there
 *   0.uuid=GPU-..         card 0; 0.1.uuid= is slice 1 of card 0
 *   0.lost=!15            answer of every call on that card, when it is not absent; 0.handle=!15: of the call that finds it
 *   0.memory=MiB MiB MiB  total, reserved, used (version 1 tells reserved + used as used); 0.memory_v2=!13: version 1 only
 *   0.util, .temp, .power (mW), .limit (mW), .name
 *   0.compute=PID:BYTES PID:na ..     0.graphics=..     0.shares=PID:PERCENT ..
 *   0.near.1=LEVEL        topology level of the cards 0 and 1 (0.. 50); 0.nvlink.1=1: they have an NVLink
 *   0.mig=1  0.places=7   MIG mode, and how many slices there may be; a place without a uuid is empty
 *
 * A reading without its key is NotSupported. An empty process list is a key with nothing after the `=`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NOT_LOADED = 9 };

typedef struct { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; } process_t;
typedef struct { unsigned int pid; unsigned long long at; unsigned int sm, mem, enc, dec; } sample_t;
typedef struct { unsigned long long total, free, used; } memory_v1_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;

static int opened, opens, links_asked;

int stub_opens(void) { return opens; }

/* 0 and the value, the error that stands for it, or -1 where there is no such key. */
static int look_up(const char *key, char *value, size_t size) {
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[4096];
    size_t length = strlen(key);
    int answer = -1;
    if (!file) return -1;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, key, length) || line[length] != '=') continue;
        snprintf(value, size, "%s", line + length + 1);
        answer = value[0] == '!' ? atoi(value + 1) : OK;
        break;
    }
    fclose(file);
    return answer;
}

static void hang_if_told(const char *function) {
    char value[256];
    while (look_up("hang", value, sizeof value) == OK && !strcmp(value, function)) usleep(5000);
}

/* A handle is a number: 1 + card, and for a slice 1000 * (1 + slice) more. */
static void prefix(void *handle, char *key, size_t size) {
    int number = (int)(size_t)handle, card = number % 1000 - 1, slice = number / 1000 - 1;
    if (slice < 0) snprintf(key, size, "%d.", card);
    else snprintf(key, size, "%d.%d.", card, slice);
}

static int reading(void *handle, const char *what, char *value, size_t size) {
    char key[64], unused[64];
    int answer;
    if (!opened) return UNINITIALIZED;
    snprintf(key, sizeof key, "%d.lost", (int)(size_t)handle % 1000 - 1);
    answer = look_up(key, unused, sizeof unused);
    if (answer > 0) return answer;
    prefix(handle, key, sizeof key);
    strncat(key, what, sizeof key - strlen(key) - 1);
    answer = look_up(key, value, size);
    return answer < 0 ? NOT_SUPPORTED : answer;
}

static int number(const char *function, void *handle, const char *what, unsigned int *out) {
    char value[256];
    int answer;
    hang_if_told(function);
    answer = reading(handle, what, value, sizeof value);
    if (answer == OK) *out = (unsigned int)strtoul(value, NULL, 10);
    return answer;
}

static int text(const char *function, void *handle, const char *what, char *out, unsigned int size) {
    char value[256];
    int answer;
    hang_if_told(function);
    answer = reading(handle, what, value, sizeof value);
    if (answer == OK) snprintf(out, size, "%s", value);
    return answer;
}

int nvmlInit_v2(void) {
    char value[256];
    int answer;
    hang_if_told("nvmlInit");
    if (look_up("count", value, sizeof value) < 0) return NOT_LOADED;
    answer = look_up("init", value, sizeof value);
    if (answer > 0) return answer;
    opened++;
    opens++;
    return OK;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }

int nvmlShutdown(void) {
    if (!opened) return UNINITIALIZED;
    opened--;
    return OK;
}

const char *nvmlErrorString(int code) { (void)code; return "an error of the stub"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    char value[256];
    int answer;
    hang_if_told("nvmlDeviceGetCount");
    if (!opened) return UNINITIALIZED;
    answer = look_up("count", value, sizeof value);
    if (answer != OK) return answer < 0 ? NOT_LOADED : answer;
    *count = (unsigned int)atoi(value);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    char key[64], value[256];
    int answer;
    if (!opened) return UNINITIALIZED;
    snprintf(key, sizeof key, "%u.handle", index);
    answer = look_up(key, value, sizeof value);
    if (answer > 0) return answer;
    *handle = (void *)(size_t)(index + 1);
    return OK;
}

int nvmlDeviceGetUUID(void *h, char *out, unsigned int size) { return text("nvmlDeviceGetUUID", h, "uuid", out, size); }
int nvmlDeviceGetName(void *h, char *out, unsigned int size) { return text("nvmlDeviceGetName", h, "name", out, size); }
int nvmlDeviceGetPowerUsage(void *h, unsigned int *out) { return number("nvmlDeviceGetPowerUsage", h, "power", out); }
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned int *out) { return number("nvmlDeviceGetEnforcedPowerLimit", h, "limit", out); }
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned int *out) { (void)sensor; return number("nvmlDeviceGetTemperature", h, "temp", out); }
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned int *out) { return number("nvmlDeviceGetMaxMigDeviceCount", h, "places", out); }

static int between(const char *function, void *one, void *two, const char *what, unsigned int *out) {
    char key[64];
    int low = (int)(size_t)one - 1, high = (int)(size_t)two - 1;
    if (low > high) return between(function, two, one, what, out);
    links_asked++;
    snprintf(key, sizeof key, "%s.%d", what, high);
    return number(function, one, key, out);
}

int stub_links_asked(void) { return links_asked; }

int nvmlDeviceGetTopologyCommonAncestor(void *one, void *two, unsigned int *level) {
    return between("nvmlDeviceGetTopologyCommonAncestor", one, two, "near", level);
}

int nvmlDeviceGetP2PStatus(void *one, void *two, unsigned int what, unsigned int *status) {
    unsigned int linked = 0;
    int answer = between("nvmlDeviceGetP2PStatus", one, two, "nvlink", &linked);
    (void)what;
    if (answer == NOT_SUPPORTED) answer = OK;
    *status = linked ? 0 : 5;
    return answer;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned int out[2]) {
    out[1] = 0;
    return number("nvmlDeviceGetUtilizationRates", handle, "util", &out[0]);
}

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    int answer = number("nvmlDeviceGetMigMode", handle, "mig", current);
    *pending = *current;
    return answer;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **slice) {
    char value[256];
    void *found = (void *)((size_t)handle + 1000 * (size_t)(index + 1));
    int answer = reading(found, "uuid", value, sizeof value);
    if (answer == NOT_SUPPORTED) return NOT_FOUND;
    *slice = found;
    return answer == OK || strchr(value, '!') ? OK : answer;
}

static int memory(void *handle, unsigned long long mib[3]) {
    char value[256];
    int answer;
    hang_if_told("nvmlDeviceGetMemoryInfo");
    answer = reading(handle, "memory", value, sizeof value);
    if (answer == OK && sscanf(value, "%llu %llu %llu", &mib[0], &mib[1], &mib[2]) != 3) return INVALID;
    return answer;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2_t *out) {
    char value[256];
    unsigned long long mib[3];
    int answer = reading(handle, "memory_v2", value, sizeof value);
    if (answer != NOT_SUPPORTED) return answer;
    if (out->version != (sizeof(memory_v2_t) | 2u << 24)) return INVALID;
    answer = memory(handle, mib);
    if (answer != OK) return answer;
    out->total = mib[0] << 20;
    out->reserved = mib[1] << 20;
    out->used = mib[2] << 20;
    out->free = out->total - out->reserved - out->used;
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_v1_t *out) {
    unsigned long long mib[3];
    int answer = memory(handle, mib);
    if (answer != OK) return answer;
    out->total = mib[0] << 20;
    out->used = (mib[1] + mib[2]) << 20;
    out->free = out->total - out->used;
    return OK;
}

static int processes(const char *function, void *handle, const char *what, unsigned int *count, process_t *out) {
    char value[4096], *word, *rest = value;
    unsigned int found = 0;
    int answer;
    hang_if_told(function);
    answer = reading(handle, what, value, sizeof value);
    if (answer != OK) return answer;
    while ((word = strtok_r(rest, " ", &rest))) {
        char *colon = strchr(word, ':');
        if (out && found < *count) {
            memset(&out[found], 0, sizeof *out);
            out[found].pid = (unsigned int)strtoul(word, NULL, 10);
            out[found].memory = colon && strcmp(colon + 1, "na") ? strtoull(colon + 1, NULL, 10) : ~0ULL;
        }
        found++;
    }
    answer = found > (out ? *count : 0) ? TOO_SMALL : OK;
    *count = found;
    return answer;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *out) {
    return processes("nvmlDeviceGetComputeRunningProcesses", handle, "compute", count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned int *count, process_t *out) {
    return processes("nvmlDeviceGetGraphicsRunningProcesses", handle, "graphics", count, out);
}

int nvmlDeviceGetProcessUtilization(void *handle, sample_t *out, unsigned int *count, unsigned long long since) {
    process_t found[64];
    unsigned int number = out ? 64 : 0, i;
    int answer = processes("nvmlDeviceGetProcessUtilization", handle, "shares", &number, out ? found : NULL);
    (void)since;
    if (answer == OK && !number) return NOT_FOUND;
    if (answer == OK && *count < number) answer = TOO_SMALL;
    for (i = 0; answer == OK && i < number; i++) {
        memset(&out[i], 0, sizeof *out);
        out[i].pid = found[i].pid;
        out[i].sm = (unsigned int)found[i].memory;
    }
    *count = number;
    return answer;
}
