"""Records in, records or tables out: reductions, verdicts, frames. pandas is imported only where a table is built."""
