// A small bounded XML reader: tags and the text before them. No DTD, no namespaces (a prefix is cut off), nothing that
// grows; anything unusual is an error.
#ifndef S3S_XML_H
#define S3S_XML_H

#include "store.h"

// The parts of a <CompleteMultipartUpload> body, in its order; `*parts` is the caller's to free.
enum s3s_code s3s_xml_read_parts(struct s3s_span xml, struct s3s_wanted_part **parts,
                                 size_t *count);

#endif
