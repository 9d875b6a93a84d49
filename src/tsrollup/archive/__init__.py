"""Cold raw data as Parquet: partitions that retention moved aside are written to files, verified,
recorded in silver.archive_log and dropped; `restore` brings them back."""
