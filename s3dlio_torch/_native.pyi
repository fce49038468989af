# Importing it registers torch.ops.s3dlio_native.empty; it has no attributes.
