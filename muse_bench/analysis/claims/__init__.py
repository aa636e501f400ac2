"""Every figure of the two earlier reports, beside what is found: rules as data, records in, answers out."""
