// The test's side door, on the same port: /_s3d/faults, keys, counters, reset, uploads, objects. Unsigned and uncounted.
#include "call.h"

bool s3s_control_is(const struct s3s_call *call)
{
    return s3s_span_starts(call->request.path, "/_s3d/");
}

static void write_counters(struct s3s_server *server, struct s3s_text *out)
{
    struct s3s_stats *stats = &server->stats;
    s3s_text_puts(out, "{\"requests\":{");
    for (int i = 0; i < S3S_OP_COUNT; i++)
        s3s_text_printf(out, "%s\"%s\":%lu", i ? "," : "", s3s_op_name((enum s3s_op)i),
                        atomic_load(&stats->requests[i]));
    s3s_text_printf(out, "},\"bytes_in\":%lu,\"bytes_out\":%lu", atomic_load(&stats->bytes_in),
                    atomic_load(&stats->bytes_out));
    s3s_text_printf(
        out,
        ",\"tls_requests\":%lu,\"connections\":%lu,\"open_connections\":%lu,\"max_connections\":%lu",
        atomic_load(&stats->tls_requests), atomic_load(&stats->connections),
        atomic_load(&stats->open_connections), atomic_load(&stats->max_connections));
    s3s_text_printf(out,
                    ",\"open_requests\":%lu,\"max_requests\":%lu,\"signatures_verified\":%lu}",
                    atomic_load(&stats->open_requests), atomic_load(&stats->max_requests),
                    atomic_load(&stats->signatures_verified));
}

static void reset(struct s3s_call *call)
{
    struct s3s_stats *stats = &call->server->stats;
    const struct s3s_span *objects = s3s_request_param(&call->request, "objects");
    for (int i = 0; i < S3S_OP_COUNT; i++)
        atomic_store(&stats->requests[i], 0);
    atomic_store(&stats->bytes_in, 0);
    atomic_store(&stats->bytes_out, 0);
    atomic_store(&stats->signatures_verified, 0);
    atomic_store(&stats->max_requests, atomic_load(&stats->open_requests));
    atomic_store(&stats->tls_requests, 0);
    atomic_store(&stats->connections, atomic_load(&stats->open_connections));
    atomic_store(&stats->max_connections, atomic_load(&stats->open_connections));
    s3s_faults_clear(&call->server->faults);
    s3s_keys_clear(&call->server->keys);
    if (objects && s3s_span_is(*objects, "1"))
        s3s_store_reset(&call->server->store);
}

static void write_uploads(struct s3s_store *store, struct s3s_text *out)
{
    s3s_text_puts(out, "[");
    pthread_mutex_lock(&store->mutex);
    for (const struct s3s_upload *upload = store->locked.uploads; upload;
         upload = upload->next) {
        size_t parts = 0;
        uint64_t bytes = 0;
        for (size_t i = 0; i < upload->part_capacity; i++) {
            parts += upload->parts[i].present;
            bytes += upload->parts[i].piece.size_bytes;
        }
        s3s_text_printf(out, "%s{\"bucket\":\"%s\",\"key\":",
                        upload == store->locked.uploads ? "" : ",", upload->bucket->name);
        s3s_text_json(out, (struct s3s_span){upload->key, upload->key_length});
        s3s_text_printf(out, ",\"upload_id\":\"%s\",\"parts\":%zu,\"bytes\":%lu}", upload->id,
                        parts, (unsigned long)bytes);
    }
    pthread_mutex_unlock(&store->mutex);
    s3s_text_puts(out, "]");
}

static void write_objects(struct s3s_store *store, struct s3s_text *out)
{
    bool first = true;
    s3s_text_puts(out, "[");
    pthread_mutex_lock(&store->mutex);
    for (const struct s3s_bucket *bucket = store->locked.buckets; bucket;
         bucket = bucket->next) {
        for (size_t i = 0; i < bucket->count; i++) {
            const struct s3s_object *object = bucket->objects[i];
            s3s_text_printf(out, "%s{\"bucket\":\"%s\",\"key\":", first ? "" : ",",
                            bucket->name);
            s3s_text_json(out, s3s_object_key(object));
            s3s_text_printf(out, ",\"size\":%lu,\"etag\":\"%s\"}",
                            (unsigned long)object->size_bytes, object->etag);
            first = false;
        }
    }
    pthread_mutex_unlock(&store->mutex);
    s3s_text_puts(out, "]");
}

void s3s_control_perform(struct s3s_call *call)
{
    struct s3s_server *server = call->server;
    struct s3s_span method = call->request.method, path = call->request.path;
    struct s3s_text *out = &call->answer.body;
    s3s_text_puts(&call->answer.headers, "Content-Type: application/json\r\n");
    if (s3s_span_is(path, "/_s3d/faults") && s3s_span_is(method, "POST"))
        call->answer.status =
            s3s_faults_add(&server->faults, s3s_text_span(&call->xml), out) ? 200 : 400;
    else if (s3s_span_is(path, "/_s3d/faults") && s3s_span_is(method, "DELETE"))
        s3s_faults_clear(&server->faults);
    else if (s3s_span_is(path, "/_s3d/faults") && s3s_span_is(method, "GET"))
        s3s_faults_json(&server->faults, out);
    else if (s3s_span_is(path, "/_s3d/keys") && s3s_span_is(method, "POST"))
        call->answer.status =
            s3s_keys_put(&server->keys, s3s_text_span(&call->xml)) ? 200 : 400;
    else if (s3s_span_is(path, "/_s3d/keys") && s3s_span_is(method, "GET"))
        s3s_keys_json(&server->keys, out);
    else if (s3s_span_is(path, "/_s3d/counters") && s3s_span_is(method, "GET"))
        write_counters(server, out);
    else if (s3s_span_is(path, "/_s3d/reset") && s3s_span_is(method, "POST"))
        reset(call);
    else if (s3s_span_is(path, "/_s3d/uploads") && s3s_span_is(method, "GET"))
        write_uploads(&server->store, out);
    else if (s3s_span_is(path, "/_s3d/objects") && s3s_span_is(method, "GET"))
        write_objects(&server->store, out);
    else
        call->answer.status = 404;
}
