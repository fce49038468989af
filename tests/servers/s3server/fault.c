#include "fault.h"

#include <string.h>

static const char *const kind_names[] = {
#define NAME(id, name) name,
    S3S_FAULTS(NAME)
#undef NAME
};

void s3s_faults_init(struct s3s_faults *faults)
{
    *faults = (struct s3s_faults){0};
    pthread_mutex_init(&faults->mutex, NULL);
}

void s3s_faults_fini(struct s3s_faults *faults)
{
    s3s_mem_free(faults->locked.rules);
    pthread_mutex_destroy(&faults->mutex);
}

void s3s_faults_clear(struct s3s_faults *faults)
{
    pthread_mutex_lock(&faults->mutex);
    faults->locked.count = 0;
    pthread_mutex_unlock(&faults->mutex);
}

static bool read_op(struct s3s_span value, enum s3s_op *op)
{
    if (s3s_span_is(value, "any")) {
        *op = S3S_OP_COUNT;
        return true;
    }
    for (int i = 0; i < S3S_OP_COUNT; i++) {
        if (s3s_span_is(value, s3s_op_name((enum s3s_op)i))) {
            *op = (enum s3s_op)i;
            return true;
        }
    }
    return false;
}

static bool read_kind(struct s3s_span value, enum s3s_fault_kind *kind)
{
    for (int i = 1; i < S3S_FAULT_KIND_COUNT; i++) {
        if (s3s_span_is(value, kind_names[i])) {
            *kind = (enum s3s_fault_kind)i;
            return true;
        }
    }
    return false;
}

// Seconds with up to three decimals, into milliseconds.
static bool read_seconds(struct s3s_span value, uint64_t *ms)
{
    struct s3s_span whole;
    uint64_t seconds = 0, fraction = 0;
    bool has_fraction = s3s_span_cut(&value, '.', &whole);
    if (!s3s_span_number(whole, &seconds) || seconds > 86400)
        return false;
    if (has_fraction && (value.length > 3 || !s3s_span_number(value, &fraction)))
        return false;
    for (size_t digits = value.length; has_fraction && digits < 3; digits++)
        fraction *= 10;
    *ms = seconds * 1000 + fraction;
    return true;
}

static bool read_count(struct s3s_span value, struct s3s_fault *rule)
{
    rule->always = s3s_span_is(value, "-1");
    return rule->always || s3s_span_number(value, &rule->count);
}

static bool read_string(struct s3s_span value, char *to, size_t capacity)
{
    s3s_span_store(value, to, capacity);
    return value.length < capacity;
}

static bool read_field(struct s3s_fault *rule, struct s3s_span name, struct s3s_span value)
{
    struct {
        const char *name;
        uint64_t *to;
    } numbers[] = {
        {"part", &rule->part},
        {"skip", &rule->skip},
        {"every", &rule->every},
        {"per_mille", &rule->per_mille},
        {"seed", &rule->seed},
        {"range_from", &rule->range_from},
        {"status", &rule->status},
        {"offset", &rule->offset},
        {"retry_after", &rule->retry_after_s},
        {"bytes", &rule->bytes},
        {"bytes_per_s", &rule->bytes_per_s},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (s3s_span_is(name, numbers[i].name)) {
            rule->has_bytes |= numbers[i].to == &rule->bytes;
            return s3s_span_number(value, numbers[i].to);
        }
    }
    if (s3s_span_is(name, "op"))
        return read_op(value, &rule->op);
    if (s3s_span_is(name, "kind"))
        return read_kind(value, &rule->kind);
    if (s3s_span_is(name, "count"))
        return read_count(value, rule);
    if (s3s_span_is(name, "seconds"))
        return read_seconds(value, &rule->stall_ms);
    if (s3s_span_is(name, "key"))
        return read_string(value, rule->key, sizeof rule->key);
    if (s3s_span_is(name, "code"))
        return read_string(value, rule->code, sizeof rule->code);
    if (s3s_span_is(name, "text"))
        return read_string(value, rule->text, sizeof rule->text);
    return s3s_span_is(name, "message") &&
           read_string(value, rule->message, sizeof rule->message);
}

static bool is_complete(const struct s3s_fault *rule)
{
    if (rule->kind == S3S_FAULT_NONE || rule->op == S3S_OP_UNKNOWN || rule->per_mille > 1000)
        return false;
    if (rule->kind == S3S_FAULT_STATUS || rule->kind == S3S_FAULT_DROP_UPLOAD)
        return rule->status >= 300 && rule->status <= 599;
    if (rule->kind == S3S_FAULT_SLOW)
        return rule->bytes_per_s > 0;
    if (rule->kind == S3S_FAULT_STALL)
        return rule->stall_ms > 0;
    return rule->has_bytes ||
           (rule->kind != S3S_FAULT_RESET_AFTER && rule->kind != S3S_FAULT_TRUNCATE &&
            rule->kind != S3S_FAULT_BLANKS);
}

// name=value fields between spaces; values are percent-decoded, so that a key may hold a space.
static bool read_rule(struct s3s_span line, struct s3s_fault *rule)
{
    struct s3s_span field, name;
    char value[512];
    *rule = (struct s3s_fault){
        .op = S3S_OP_UNKNOWN, .count = 1, .range_from = UINT64_MAX, .per_mille = 1000};
    while (line.length) {
        s3s_span_cut(&line, ' ', &field);
        if (!field.length)
            continue;
        size_t length = 0;
        if (!s3s_span_cut(&field, '=', &name) || field.length > sizeof value ||
            !s3s_percent_decode(field, false, value, &length) ||
            !read_field(rule, name, (struct s3s_span){value, length}))
            return false;
    }
    return is_complete(rule);
}

bool s3s_faults_add(struct s3s_faults *faults, struct s3s_span lines, struct s3s_text *reply)
{
    struct s3s_fault *fresh = s3s_mem_zalloc(S3S_FAULT_RULES_MAX * sizeof *fresh);
    size_t count = 0;
    bool good = true;
    struct s3s_span line;
    while (good && lines.length) {
        s3s_span_cut(&lines, '\n', &line);
        if (line.length && line.data[line.length - 1] == '\r')
            line.length--;
        if (!s3s_span_trim(line).length)
            continue;
        good = count < S3S_FAULT_RULES_MAX && read_rule(line, &fresh[count]);
        count++;
    }
    pthread_mutex_lock(&faults->mutex);
    good = good && faults->locked.count + count <= S3S_FAULT_RULES_MAX;
    if (good) {
        faults->locked.rules = s3s_mem_resize(faults->locked.rules,
                                              (faults->locked.count + count) * sizeof *fresh);
        s3s_text_puts(reply, "[");
        for (size_t i = 0; i < count; i++) {
            fresh[i].id = ++faults->locked.last_id;
            faults->locked.rules[faults->locked.count++] = fresh[i];
            s3s_text_printf(reply, "%s%lu", i ? "," : "", (unsigned long)fresh[i].id);
        }
        s3s_text_puts(reply, "]");
    }
    pthread_mutex_unlock(&faults->mutex);
    s3s_mem_free(fresh);
    if (!good)
        s3s_text_printf(reply, "fault rule %zu is not understood, or there are too many\n",
                        count);
    return good;
}

static bool rule_fits(const struct s3s_fault *rule, const struct s3s_fault_query *query)
{
    return (rule->op == S3S_OP_COUNT || rule->op == query->op) &&
           (!rule->part || rule->part == query->part) &&
           (rule->range_from == UINT64_MAX || rule->range_from == query->range_from) &&
           s3s_span_find(query->key, s3s_span_of(rule->key)) != SIZE_MAX;
}

// Whether the request that has just been counted is one to hit.
static bool rule_hits(const struct s3s_fault *rule)
{
    if (rule->matched <= rule->skip)
        return false;
    uint64_t number = rule->matched - rule->skip; // from 1
    uint64_t every = rule->every ? rule->every : 1;
    return number % every == 0 && (rule->always || number / every <= rule->count);
}

// The n-th request meets the same fate under the same seed. Source of the mixing function:
// Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014 (splitmix64).
static bool rule_strikes(const struct s3s_fault *rule)
{
    uint64_t mixed = rule->seed + rule->matched * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return (mixed ^ (mixed >> 31)) % 1000 < rule->per_mille;
}

void s3s_faults_match(struct s3s_faults *faults, const struct s3s_fault_query *query,
                      struct s3s_fault *hit)
{
    pthread_mutex_lock(&faults->mutex);
    for (size_t i = 0; i < faults->locked.count; i++) {
        struct s3s_fault *rule = &faults->locked.rules[i];
        if (!rule_fits(rule, query))
            continue;
        rule->matched++;
        if (!rule_hits(rule) || !rule_strikes(rule))
            continue;
        *hit = *rule;
        break;
    }
    pthread_mutex_unlock(&faults->mutex);
}

void s3s_faults_fired(struct s3s_faults *faults, const struct s3s_fault *fault)
{
    pthread_mutex_lock(&faults->mutex);
    for (size_t i = 0; i < faults->locked.count; i++) {
        if (faults->locked.rules[i].id == fault->id)
            faults->locked.rules[i].hits++;
    }
    pthread_mutex_unlock(&faults->mutex);
}

void s3s_faults_json(struct s3s_faults *faults, struct s3s_text *text)
{
    pthread_mutex_lock(&faults->mutex);
    s3s_text_puts(text, "[");
    for (size_t i = 0; i < faults->locked.count; i++) {
        const struct s3s_fault *rule = &faults->locked.rules[i];
        s3s_text_printf(
            text, "%s{\"id\":%lu,\"op\":\"%s\",\"kind\":\"%s\",\"key\":", i ? "," : "",
            (unsigned long)rule->id, rule->op == S3S_OP_COUNT ? "any" : s3s_op_name(rule->op),
            kind_names[rule->kind]);
        s3s_text_json(text, s3s_span_of(rule->key));
        s3s_text_printf(text, ",\"matched\":%lu,\"hits\":%lu}", (unsigned long)rule->matched,
                        (unsigned long)rule->hits);
    }
    s3s_text_puts(text, "]");
    pthread_mutex_unlock(&faults->mutex);
}
