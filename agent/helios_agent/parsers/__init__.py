"""Parsers: a block of lines in, columns of events out. They read no files and no clock."""
