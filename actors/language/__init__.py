"""Language models, loaded here or served: text generation in slots or padded batches."""
