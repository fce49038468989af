#include "backends/open.h"

#include "backends/backends.h"
#include "backends/identity.h"
#include "core/engine.h"

enum s3d_code s3d_store_open(struct s3d_store **store, const struct s3d_uri *uri,
                             struct s3d_error *error)
{
    struct s3d_engine *engine;
    enum s3d_code code = s3d_engine_get(&engine, error);
    if (code) {
        return code;
    }
    struct s3d_config config;
    code = s3d_config_load(&config, error);
    if (code) {
        return code;
    }
    switch (uri->scheme) {
    case S3D_SCHEME_S3:
        code = s3d_s3_open(store, engine, &config, uri->container, error);
        break;
    case S3D_SCHEME_FILE: code = s3d_file_open(store, engine, &config, error); break;
    default: code = s3d_fail(error, S3D_INTERNAL, "no backend for scheme %d", (int)uri->scheme);
    }
    s3d_config_fini(&config);
    return code;
}

void s3d_credentials_stop(void)
{
    s3d_identities_stop();
}
