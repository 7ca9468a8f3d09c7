-- From when on windows are kept; it stays so until the transaction ends.
SELECT raw_from AS raw_from_us FROM rollup_state FOR SHARE
