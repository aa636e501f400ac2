"""Charts: each module here turns plain data into one, with altair; nothing else imports altair."""
