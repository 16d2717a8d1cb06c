"""What a person writes: the schema, dotted keys, strict YAML."""
