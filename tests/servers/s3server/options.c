#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#include "server.h"

static const char help[] =
    "usage: s3server --buckets a,b [options]\n"
    "An S3 server for tests: in memory, on the loopback interface only.\n"
    "  --port N                0 (the default) takes a free one\n"
    "  --host ADDRESS          127.0.0.0/8 or ::1\n"
    "  --buckets A,B           created at the start\n"
    "  --access-key K --secret-key S [--session-token T] [--region R]\n"
    "  --verify                check signatures (SigV4, Authorization header)\n"
    "  --tls PEM               chain and key: https, and plain HTTP on the same port\n"
    "  --latency-ms N          before the first byte of each answer\n"
    "  --bandwidth-mbps N      MB/s for each connection, both ways\n"
    "  --memory-limit BYTES    for bodies (half of the RAM); beyond it uploads get 507\n"
    "  --threads N             most connections at once, one thread each (1024)\n"
    "  --min-part-size BYTES   for every part but the last (5 MiB)\n"
    "  --md5                   real MD5 ETags\n"
    "  --discard               keep only the length of what is uploaded; reads get the "
    "pattern\n"
    "  --pattern-object B/K=N  an object of N bytes of the pattern, taking no memory\n"
    "  --exit-on-stdin-eof     end when stdin is closed\n";

enum {
    LONG_FIRST = 256,
    PORT,
    HOST,
    BUCKETS,
    ACCESS,
    SECRET,
    TOKEN,
    REGION,
    TLS,
    LATENCY,
    BANDWIDTH,
    MEMORY,
    THREADS,
    MIN_PART,
    PATTERN
};

static const struct option long_options[] = {
    {"port", required_argument, NULL, PORT},
    {"host", required_argument, NULL, HOST},
    {"buckets", required_argument, NULL, BUCKETS},
    {"access-key", required_argument, NULL, ACCESS},
    {"secret-key", required_argument, NULL, SECRET},
    {"session-token", required_argument, NULL, TOKEN},
    {"region", required_argument, NULL, REGION},
    {"tls", required_argument, NULL, TLS},
    {"latency-ms", required_argument, NULL, LATENCY},
    {"bandwidth-mbps", required_argument, NULL, BANDWIDTH},
    {"memory-limit", required_argument, NULL, MEMORY},
    {"threads", required_argument, NULL, THREADS},
    {"min-part-size", required_argument, NULL, MIN_PART},
    {"pattern-object", required_argument, NULL, PATTERN},
    {"verify", no_argument, NULL, 'v'},
    {"discard", no_argument, NULL, 'd'},
    {"md5", no_argument, NULL, 'm'},
    {"exit-on-stdin-eof", no_argument, NULL, 'e'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static bool number(const char *value, uint64_t most, uint64_t *to)
{
    return s3s_span_number(s3s_span_of(value), to) && *to <= most;
}

static bool append(const char *value, const char **list, size_t *count)
{
    if (*count == S3S_OPTION_LIST_MAX)
        return false;
    list[(*count)++] = value;
    return true;
}

static bool take_number(struct s3s_options *options, int which, const char *value)
{
    if (which == PORT)
        return number(value, 65535, &options->port);
    if (which == LATENCY)
        return number(value, 3600000, &options->latency_ms);
    if (which == MEMORY)
        return number(value, UINT64_MAX / 2, &options->memory_limit_bytes);
    if (which == THREADS)
        return number(value, 100000, &options->max_connections) && options->max_connections;
    if (which == MIN_PART)
        return number(value, UINT64_MAX / 2, &options->min_part_bytes);
    if (!number(value, 1000000, &options->bandwidth_bytes_per_s)) // BANDWIDTH
        return false;
    options->bandwidth_bytes_per_s *= 1000000;
    return true;
}

static bool take(struct s3s_options *options, int which, const char *value)
{
    switch (which) {
    case HOST: options->host = value; return true;
    case ACCESS: options->access_key = value; return true;
    case SECRET: options->secret_key = value; return true;
    case TOKEN: options->session_token = value; return true;
    case REGION: options->region = value; return true;
    case TLS: options->tls = value; return true;
    case BUCKETS: return append(value, options->bucket_lists, &options->bucket_list_count);
    case PATTERN:
        return append(value, options->pattern_objects, &options->pattern_object_count);
    case 'v': return options->verify = true;
    case 'd': return options->discard = true;
    case 'm': return options->real_md5 = true;
    case 'e': return options->exit_on_stdin_eof = true;
    case '?': return false;
    default: return take_number(options, which, value);
    }
}

static uint64_t half_of_ram(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_bytes > 0 ? (uint64_t)pages / 2 * (uint64_t)page_bytes
                                       : UINT64_MAX / 2;
}

int s3s_options_parse(struct s3s_options *options, int argc, char **argv)
{
    *options = (struct s3s_options){.host = "127.0.0.1",
                                    .region = "us-east-1",
                                    .memory_limit_bytes = half_of_ram(),
                                    .max_connections = 1024,
                                    .min_part_bytes = 5 << 20};
    int which;
    while ((which = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (which == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (!take(options, which, optarg)) {
            fprintf(stderr, "s3server: a value is missing or wrong (%s)\n",
                    optarg ? optarg : "?");
            return 2;
        }
    }
    if (optind < argc || (options->verify && (!options->access_key || !options->secret_key))) {
        fputs("s3server: --verify needs --access-key and --secret-key; there are no plain "
              "arguments\n",
              stderr);
        return 2;
    }
    return 0;
}
