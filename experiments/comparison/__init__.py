"""One model, in one framework, in one process: the workers behind `partoken compare`."""
