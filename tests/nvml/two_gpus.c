/* An NVML of two GPUs for tests: the second one works for this process. Declarations are nvml.h's. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { const char *name, *uuid; unsigned long long others, own, millijoules; } Gpu;

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7 };
static const unsigned long long GIB = 1ULL << 30;
static Gpu gpus[2] = {{"Idle GPU", "GPU-1111aaaa-0000", 2, 0, 0}, {"Busy GPU", "GPU-2222bbbb-0000", 1, 3, 0}};

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }
int nvmlSystemGetDriverVersion(char *out, unsigned length) { snprintf(out, length, "600.1"); return SUCCESS; }
int nvmlDeviceGetName(Gpu *gpu, char *out, unsigned length) { snprintf(out, length, "%s", gpu->name); return SUCCESS; }
int nvmlDeviceGetUUID(Gpu *gpu, char *out, unsigned length) { snprintf(out, length, "%s", gpu->uuid); return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    if (index >= 2) return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(Gpu *gpu, int *major, int *minor) {
    *major = 9;
    *minor = 0;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Gpu *gpu, Memory *memory) {
    memory->total = 140 * GIB;
    memory->used = (gpu->others + gpu->own) * GIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

/* Another process of 1 GiB first, then this one with what it has. */
int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned *count, Process *processes) {
    unsigned all = gpu->own ? 2 : 0;
    if (*count < all) {
        *count = all;
        return INSUFFICIENT_SIZE;
    }
    *count = all;
    for (unsigned at = 0; at < all; at++) {
        processes[at] = (Process){at ? (unsigned)getpid() : 1, (at ? gpu->own : gpu->others) * GIB, 0, 0};
    }
    return SUCCESS;
}

/* Ten joules more each time that it is asked. */
int nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *millijoules) {
    *millijoules = gpu->millijoules += 10000;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(Gpu *gpu, int kind, unsigned *mhz) {
    *mhz = kind == 1 ? 1980 : 3201;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(Gpu *gpu, int sensor, unsigned *celsius) { *celsius = 41; return SUCCESS; }

/* Idle, and capped by software. */
int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *reasons) { *reasons = 1 | 4; return SUCCESS; }
