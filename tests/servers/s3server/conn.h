// One connection: a thread that reads requests and answers them until either side has had enough.
#ifndef S3S_CONN_H
#define S3S_CONN_H

#include "server.h"

void s3s_conn_start(struct s3s_server *server, int fd); // takes the socket
void s3s_conn_stop_all(
    struct s3s_server *server); // shuts every socket and waits for the threads

#endif
